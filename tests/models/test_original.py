"""Released latent diffusion checkpoints: what goes in by the original's names comes out with the original's outputs."""

import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.models.architecture import Architecture, architecture
from cq.models.original import convert, read_checkpoint
from tests.oracles.latent_diffusion import (
    Classes,
    FirstStage,
    FirstStageShape,
    UNet,
    UNetShape,
    randomized,
    released,
)

VQ = FirstStageShape(channels=128, mult=(1, 2, 4), latents=3, codes=8192)
KL = FirstStageShape(channels=128, mult=(1, 2, 4, 4), latents=4, codes=0)


@dataclass(frozen=True, kw_only=True)
class Released:
    """One release at its true widths. betas: first and last."""

    unet: UNetShape
    first_stage: FirstStageShape
    betas: tuple[float, float]
    classes: int = 0
    ema: bool = False
    scale_factor: float | None = None


RELEASES = {
    "ldm_bedroom256": Released(
        unet=UNetShape(channels=224, mult=(1, 2, 3, 4), attended=(2, 4, 8), latents=3, head_width=32),
        first_stage=VQ, betas=(0.0015, 0.0195),
    ),
    "ldm_church256": Released(
        unet=UNetShape(channels=192, mult=(1, 2, 2, 4, 4), attended=(1, 2, 4, 8), latents=4, heads=8, residual=True),
        first_stage=KL, betas=(0.0015, 0.0155), ema=True, scale_factor=0.22765929,
    ),
    "ldm_imagenet256": Released(
        unet=UNetShape(channels=192, mult=(1, 2, 3, 5), attended=(2, 4, 8), latents=3, heads=1, context=512),
        first_stage=VQ, betas=(0.0015, 0.0195), classes=1001,
    ),
}  # fmt: skip


def narrow(name: str) -> tuple[Released, Architecture]:
    """The same release and architecture with 32 channels where there are more, and fewer codes and classes."""
    release, parts = RELEASES[name], {part: dict(config) for part, config in architecture(name).items()}
    context = 24 if release.unet.context else 0
    mult, stage = release.unet.mult, release.first_stage
    parts["unet"] |= {"block_out_channels": [32 * m for m in mult]}
    parts["vae"] |= {"block_out_channels": [32 * m for m in stage.mult]}
    if stage.codes:
        parts["vae"]["num_vq_embeddings"] = 50
    if release.classes:
        parts["unet"]["cross_attention_dim"] = context
        parts["class_embedder"] |= {"dim": context, "num_classes": 10}
    unet = UNetShape(
        channels=32, mult=mult, attended=release.unet.attended, latents=release.unet.latents, heads=release.unet.heads,
        head_width=min(release.unet.head_width, 32), context=context, residual=release.unet.residual,
    )  # fmt: skip
    small = FirstStageShape(channels=32, mult=stage.mult, latents=stage.latents, codes=50 if stage.codes else 0)
    return Released(
        unet=unet, first_stage=small, betas=release.betas, classes=11 if release.classes else 0, ema=release.ema,
        scale_factor=release.scale_factor,
    ), parts  # fmt: skip


@dataclass(frozen=True)
class Original:
    """The networks of one release, built to the original's definition, and their checkpoint."""

    unet: Any
    averaged: Any
    first_stage: Any
    classes: Any
    checkpoint: dict[str, Any]

    @staticmethod
    def of(release: Released) -> "Original":
        unet, averaged = randomized(UNet(release.unet), 1), randomized(UNet(release.unet), 2) if release.ema else None
        first_stage = randomized(FirstStage(release.first_stage), 3)
        classes = randomized(Classes(release.classes, release.unet.context), 4) if release.classes else None
        parts: Any = (unet, averaged, first_stage, classes)
        checkpoint = released(*parts, betas=release.betas, scale_factor=release.scale_factor)
        return Original(unet, averaged, first_stage, classes, checkpoint)

    @property
    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.checkpoint["state_dict"]
        return state


@pytest.fixture(scope="module")
def originals() -> dict[str, tuple[Original, Architecture, Released]]:
    made = {}
    for name in RELEASES:
        release, parts = narrow(name)
        made[name] = (Original.of(release), parts, release)
    return made


def check_equal(original: Original, parts: dict[str, Any], release: Released, size: int) -> None:
    """Outputs of every converted part against the original's."""
    torch.manual_seed(5)
    latents = release.unet.latents
    x, timesteps = torch.randn(2, latents, size, size), torch.tensor([801, 1])
    unet = original.averaged if release.ema else original.unet
    context: dict[str, Tensor] = {}
    if release.classes:
        labels = torch.tensor([3, release.classes - 1])
        context = {"encoder_hidden_states": parts["class_embedder"](labels)}
        assert torch.equal(context["encoder_hidden_states"], original.classes.embedding(labels)[:, None])
        assert parts["class_embedder"].null_class == release.classes - 1
    expected = unet(x, timesteps, *context.values())
    assert_close(parts["unet"](x, timesteps, **context).sample, expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.1  # neither vanished nor constant

    vae, stage = parts["vae"], original.first_stage
    image = torch.rand(1, 3, 4 * size, 4 * size) * 2 - 1
    encoded, decoded = stage.encode(image), stage.decode(x[:1])
    if release.first_stage.codes:
        assert_close(vae.encode(image).latents, encoded, rtol=1e-4, atol=1e-4)
        unquantized = vae.decode(x[:1], force_not_quantize=True).sample
        assert not torch.allclose(unquantized, decoded, atol=1e-2)  # quantizing matters, and is what decode does
    else:
        assert_close(vae.encode(image).latent_dist.parameters[:, :latents], encoded[:, :latents], rtol=1e-4, atol=1e-4)
    assert_close(vae.decode(x[:1]).sample, decoded, rtol=1e-4, atol=1e-4)
    assert vae.config.scaling_factor == pytest.approx(release.scale_factor or 1.0)


@pytest.mark.parametrize("name", RELEASES)
@torch.no_grad()
def test_a_converted_checkpoint_computes_what_the_original_computes(name: str, originals: Any) -> None:
    original, parts, release = originals[name]
    check_equal(original, convert(original.state, parts, ema=release.ema), release, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASES)
@torch.no_grad()
def test_at_true_widths_too(name: str) -> None:
    """About a minute and 5 GiB each."""
    release = RELEASES[name]
    original = Original.of(release)
    check_equal(original, convert(original.state, architecture(name), ema=release.ema), release, 32)


@torch.no_grad()
def test_averaged_and_trained_weights_are_two_choices(originals: Any) -> None:
    original, parts, _ = originals["ldm_church256"]
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([400])
    trained, averaged = (convert(original.state, parts, ema=ema)["unet"](x, t).sample for ema in (False, True))
    assert_close(trained, original.unet(x, t), rtol=1e-4, atol=1e-4)
    assert_close(averaged, original.averaged(x, t), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained, averaged, atol=0.1)


SAMPLE = {  # a key of each kind that is converted in its own way
    "ldm_bedroom256": (
        "model.diffusion_model.input_blocks.4.1.qkv.weight", "model.diffusion_model.input_blocks.3.0.op.bias",
        "model.diffusion_model.output_blocks.2.2.conv.weight", "model.diffusion_model.out.2.bias",
        "model.diffusion_model.middle_block.1.proj_out.bias", "first_stage_model.quantize.embedding.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight", "first_stage_model.quant_conv.bias",
        "first_stage_model.decoder.up.1.upsample.conv.bias", "posterior_mean_coef2",
    ),
    "ldm_church256": (
        "model.diffusion_model.input_blocks.3.0.emb_layers.1.weight", "scale_factor",
        "model.diffusion_model.output_blocks.2.1.in_layers.2.bias",
        "model.diffusion_model.output_blocks.5.2.out_layers.3.weight", "model_ema.diffusion_modelout2bias",
        "first_stage_model.encoder.down.0.downsample.conv.weight", "first_stage_model.post_quant_conv.weight",
    ),
    "ldm_imagenet256": (
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.bias",
        "model.diffusion_model.output_blocks.8.1.proj_in.weight", "cond_stage_model.embedding.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0.bias", "betas",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in SAMPLE.items() for key in keys])
def test_a_key_that_is_dropped_renamed_or_reshaped_is_refused_by_name(name: str, key: str, originals: Any) -> None:
    original, parts, release = originals[name]
    layer = key.rpartition(".")[0]
    without = {k: v for k, v in original.state.items() if k != key}
    with pytest.raises(ValueError) as dropped:  # noqa: PT011
        convert(without, parts, ema=release.ema)
    known = key.removeprefix("model.diffusion_model.").removeprefix("first_stage_model.")
    # by its own name where its sibling tells it, else by that of the parameter which it becomes
    assert known in str(dropped.value) or "what becomes" in str(dropped.value)
    with pytest.raises(ValueError, match=r"renamed|lacks '|has no 'scale_factor'"):
        convert({**without, f"{layer or key}.renamed": original.state[key]}, parts, ema=release.ema)


def test_a_key_of_another_shape_is_refused_by_name(originals: Any) -> None:
    original, parts, _ = originals["ldm_bedroom256"]
    for key in ("model.diffusion_model.input_blocks.4.1.qkv.weight", "first_stage_model.decoder.conv_in.bias"):
        with pytest.raises(ValueError, match=rf"{key}: has shape \[7, 7\] and becomes"):
            convert({**original.state, key: torch.zeros(7, 7)}, parts, ema=False)


@pytest.mark.parametrize("name", ["ldm_church256", "ldm_imagenet256"])
@pytest.mark.parametrize(
    "key",
    [
        "extra", "model.diffusion_model.extra.weight", "model.diffusion_model.input_blocks.1.0.extra.weight",
        "model.diffusion_model.input_blocks.99.0.in_layers.0.weight", "first_stage_model.loss.perceptual.weight",
        "first_stage_model.decoder.up.0.attn.0.q.weight", "cond_stage_model.extra.weight", "model_ema.extra",
        "model.diffusion_model.output_blocks.0.1.qkv.extra", "model.diffusion_model.label_emb.weight",
    ],
)  # fmt: skip
def test_a_key_too_many_is_refused_by_name(name: str, key: str, originals: Any) -> None:
    original, parts, release = originals[name]
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        convert({**original.state, key: torch.zeros(4, 4, 1, 1)}, parts, ema=release.ema)


def test_another_models_checkpoint_is_refused(originals: Any) -> None:
    bedroom, church = originals["ldm_bedroom256"], originals["ldm_church256"]
    with pytest.raises(ValueError, match=r"UNet2DModel: the checkpoint lacks .*Is it another model's"):
        convert(bedroom[0].state, church[1], ema=False)
    with pytest.raises(ValueError, match=r"noise schedule ends at .* beta 0\.0015 to 0\.0155"):
        convert(bedroom[0].state, {**bedroom[1], "scheduler": church[1]["scheduler"]}, ema=False)
    with pytest.raises(ValueError, match=r"release\.ema=true: the checkpoint holds no averaged weights"):
        convert(bedroom[0].state, bedroom[1], ema=True)


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    return path


def test_a_checkpoint_is_read_with_what_lightning_leaves_in_it(
    originals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of a callback is filed under its class, which need not be installed."""
    original = originals["ldm_church256"][0]
    name = "pytorch_lightning.callbacks.model_checkpoint"
    parents = ["pytorch_lightning", "pytorch_lightning.callbacks", name]
    filed = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as installed:
        for parent in parents:
            installed.setitem(sys.modules, parent, types.ModuleType(parent))
        installed.setattr(sys.modules[name], "ModelCheckpoint", filed, raising=False)
        path = write(tmp_path, {**original.checkpoint, "callbacks": {filed: {"best": torch.tensor(1.0)}}})
    state = read_checkpoint(path)
    assert state.keys() == original.state.keys()
    assert all(torch.equal(state[key], value) for key, value in original.state.items())


class Malicious:
    def __init__(self, action: Callable[..., Any], *arguments: Any) -> None:
        self.action, self.arguments = action, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.action, self.arguments


def test_a_checkpoint_that_wants_to_execute_something_is_refused(originals: Any, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    path = write(tmp_path, {**originals["ldm_church256"][0].checkpoint, "x": Malicious(os.mkdir, str(touched))})
    with pytest.raises(ValueError, match=r"checkpoint=.*never executed"):
        read_checkpoint(path)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # it would have
    assert touched.exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint=.*model\.ckpt"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{}, {"state_dict": {"a": 1}}, [torch.zeros(1)]])
def test_a_file_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tensors under 'state_dict'"):
        read_checkpoint(write(tmp_path, content))
