"""Folders as people have them: opened as the stock pipeline opens them, or refused by name before anything runs."""

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from diffusers import (
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.denoise import denoise
from cq.models.diffusion import DiffusionModel, ModelComponent, UnusableModelError, guiding
from cq.models.files import weight_files
from cq.models.known import DEFAULTS, KNOWN
from cq.models.trial import tried
from cq.models.unet import UNetCut, main_channels
from cq.run.components import Components
from cq.run.ledger import execute
from cq.sampler.ddim import DDIM
from tests.families import component
from tests.tiny import tiny_church_unet
from tests.tiny_runs import composed, quick

Edit = Callable[[Path], object]


def file_of(folder: Path, part: str) -> Path:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    return folder / part / f"{stem}.safetensors"


def configured(part: str, **settings: Any) -> Edit:
    """Change a part's config.json, or, for part "", model_index.json."""

    def edit(folder: Path) -> None:
        path = folder / part / "config.json" if part else folder / "model_index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return edit


def weighted(part: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Edit:
    """Change the tensors in a part's file."""

    def edit(folder: Path) -> None:
        path = file_of(folder, part)
        tensors = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
        save_file(tensors, path, metadata={"format": "pt"})

    return edit


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name.replace(old, new): tensor for name, tensor in state.items()}


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def wrote(name: str, content: bytes | str) -> Edit:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut_off(part: str) -> Edit:
    return lambda folder: file_of(folder, part).write_bytes(file_of(folder, part).read_bytes()[:-100])


def removed(name: str) -> Edit:
    return lambda folder: (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)


def without_middle(folder: Path) -> None:
    weighted("unet", lambda s: {name: tensor for name, tensor in s.items() if not name.startswith("mid_block")})(folder)
    configured("unet", mid_block_type=None)(folder)


def sharded(part: str, *, variant: str | None = None, lose: bool = False) -> Edit:
    """A part's file as two shards with their index."""

    def edit(folder: Path) -> None:
        path = file_of(folder, part)
        state = load_file(path)
        if variant:
            state = {name: tensor.half() for name, tensor in state.items()}
        stem = ".".join(filter(None, (path.stem, variant)))
        names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
        where = {name: names[i % 2] for i, name in enumerate(sorted(state))}
        for name in names:
            held = {key: tensor for key, tensor in state.items() if where[key] == name}
            save_file(held, path.parent / name, metadata={"format": "pt"})
        index = ".".join(filter(None, (path.name, "index", variant, "json")))
        (path.parent / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
        path.unlink()
        if lose:
            (path.parent / names[1]).unlink()

    return edit


def halved(part: str) -> Edit:
    def edit(folder: Path) -> None:
        path = file_of(folder, part)
        state = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(state, path.with_name(f"{path.stem}.fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()

    return edit


def pickled(part: str) -> Edit:
    def edit(folder: Path) -> None:
        path = file_of(folder, part)
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()

    return edit


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3438167534\n"
UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
CONV_IN, FINAL = "conv_in.weight", "final_layer_norm.weight"

# family, what was done to its folder, what the refusal must say; refused before anything is loaded
REFUSED: dict[str, tuple[str, Edit, list[str]]] = {
    "no weights": ("sd", removed(UNET), ["unet has no weights", "variant", "Get the folder again"]),
    "no weights of a text encoder": ("sdxl", removed("text_encoder_2/model.safetensors"), ["text_encoder_2 has no"]),
    "weights of another name": (
        "sd", lambda f: (f / UNET).rename(f / "unet/ema.safetensors"), ["only ema.safetensors", "rename the file"],
    ),
    "a shard is missing": ("sd", sharded("unet", lose=True), ["00002-of-00002.safetensors is not there"]),
    "an index that is none": ("sd", wrote(f"{UNET}.index.json", "[]"), ["index.json lists no weights"]),
    "a pointer": ("sd", wrote(UNET, POINTER), [UNET, "git-lfs pointer of 7", "git lfs pull"]),
    "a pointer for a vocabulary": ("pixart", wrote("tokenizer/tokenizer.json", POINTER), ["git-lfs pointer"]),
    "cut off": ("sd", cut_off("vae"), ["vae", "its head says", "cut off"]),
    "empty": ("sd", wrote(TEXT, b""), [TEXT, "no safetensors file"]),
    "a page of a web site": ("sd", wrote(TEXT, "<html>" + "x" * 300), [TEXT, "no safetensors file"]),
    "integers": (
        "sd", weighted("unet", lambda s: {**s, CONV_IN: s[CONV_IN].to(torch.int8)}), ["holds weights as I8", "F32"],
    ),
    "a LoRA of PEFT in the text encoder": (
        "sd", weighted("text_encoder", renamed("q_proj.", "q_proj.base_layer.")), ["base_layer", "fuse_lora()"],
    ),
    "a LoRA in the U-Net": (
        "sdxl", weighted("unet", lambda s: {**s, "a.processor.to_q_lora.up.weight": torch.zeros(1)}),
        ["to_q_lora.up.weight", "not merged", "fuse_lora()"],
    ),
    "a LoRA beside the model": ("sd", wrote("pytorch_lora_weights.safetensors", b"x"), ["an adapter", "Merge it"]),
    "an adapter in a part": ("pixart", wrote("transformer/adapter_config.json", "{}"), ["holds an adapter"]),
    "no vocabulary": ("sd", removed("tokenizer/tokenizer.json"), ["tokenizer holds no vocabulary", "merges.txt"]),
    "stored quantized": ("sd", configured("unet", quantization_config={"bits": 4}), ["stored quantized"]),
    "a configuration that is a list": ("sd", wrote("vae/config.json", "[]"), ["config.json cannot be read"]),
    "an index that is no JSON": ("sd", wrote("model_index.json", "{"), ["model_index.json cannot be read"]),
    "inpainting's pipeline": (
        "sd", configured("", _class_name="StableDiffusionInpaintPipeline"),
        ["is of a StableDiffusionInpaintPipeline", "as StableDiffusionPipeline does"],
    ),
    "XL's folder as Stable Diffusion": ("sdxl as sd", lambda _: None, ["is of a StableDiffusionXLPipeline"]),
    "a part that the index denies": ("sdxl", configured("", text_encoder=[None, None]), ["there is no text_encoder"]),
    "inpainting": ("sd", configured("unet", in_channels=9), ["in_channels=9 and out_channels=4", "inpainting"]),
    "depth": ("sd", configured("unet", in_channels=5), ["in_channels=5", "depth"]),
    "three times the channels": ("dit", configured("transformer", out_channels=12), ["out_channels=12"]),
    "a guidance embedding": ("sd", configured("unet", time_cond_proj_dim=16), ["time_cond_proj_dim=16", "LCM"]),
    "classes beside the timestep": ("uncond", configured("unet", num_class_embeds=10), ["num_class_embeds=10", "null"]),
    "another class embedding": ("sd", configured("unet", class_embed_type="timestep"), ["class_embed_type='timestep'"]),
    "image embeddings": ("sd", configured("unet", encoder_hid_dim_type="ip_image_proj"), ["encoder_hid_dim_type="]),
    "boxes": ("sd", configured("unet", attention_type="gated"), ["attention_type='gated'"]),
    "K blocks": (
        "sd", configured("unet", down_block_types=["KDownBlock2D", "DownBlock2D"]), ["'KDownBlock2D'", "Known are"],
    ),
    "skip blocks": (
        "uncond", configured("unet", up_block_types=["SkipUpBlock2D", "AttnUpBlock2D"]), ["up_block_types='Skip"],
    ),
    "another middle": (
        "sd", configured("unet", mid_block_type="UNetMidBlock2DSimpleCrossAttn"), ["mid_block_type=", "null"],
    ),
    "Fourier features": ("ddpm", configured("unet", time_embedding_type="fourier"), ["time_embedding_type='fourier'"]),
    "size conditions": (
        "pixart", configured("transformer", use_additional_conditions=True), ["use_additional_conditions=True", "1024"],
    ),
    "size conditions by default": (
        "pixart", configured("transformer", use_additional_conditions=None, sample_size=128),
        ["use_additional_conditions=True"],
    ),
    "a transformer of another size": (
        "dit", configured("transformer", sample_size=16), ["sample_size=16", "Set it to [4, 16, 16]"],
    ),
    "a patch that does not divide": ("pixart", configured("transformer", patch_size=3), ["sides that 3 divides"]),
    "shifted latents": ("sd", configured("vae", shift_factor=0.1), ["shift_factor=0.1", "set it to null"]),
    "latents with a mean": (
        "sd", configured("vae", latents_mean=[0.0] * 4, latents_std=[1.0] * 4), ["latents_mean=", "to null"],
    ),
    "half of the latents' moments": ("sdxl", configured("vae", latents_mean=[0.0] * 4), ["Set both or none"]),
    "moments of other latents": (
        "sdxl", configured("vae", latents_mean=[0.0] * 16, latents_std=[1.0] * 16), ["of 16 channels", "=4"],
    ),
    "no scale": ("dit", configured("vae", scaling_factor=None), ["scaling_factor=None", "above 0"]),
    "another scale": ("dit", configured("vae", scaling_factor="0.18215"), ["scaling_factor='0.18215'"]),
    "a first stage of 16 channels": ("sd", configured("vae", latent_channels=16), ["latents of 16 channels"]),
    "another first stage": ("sd", configured("vae", _class_name="AutoencoderTiny"), ["its vae is a AutoencoderTiny"]),
    "another text encoder": ("sd", configured("text_encoder", model_type="chatglm"), ["is a chatglm"]),
    "a wider text encoder": (
        "sd", configured("text_encoder", hidden_size=32), ["states of 16 numbers (cross_attention_dim)", "gives 32"],
    ),
    "captions of another width": ("pixart", configured("transformer", caption_channels=24), ["caption_channels"]),
    "captions that nobody projects": ("pixart", configured("transformer", caption_channels=None), ["of None numbers"]),
    "classes of another width": ("ldm", configured("class_embedder", dim=9), ["its class_embedder gives 9"]),
    "a width that is no number": ("sdxl", configured("text_encoder_2", projection_dim=None), ["projection_dim=None"]),
    "classes that are no number": ("ldm", configured("class_embedder", num_classes="10"), ["num_classes='10'"]),
    "widths that are none": ("dit", configured("vae", block_out_channels=None), ["block_out_channels=None", "a list"]),
    "layers that are none": ("sd", configured("unet", layers_per_block=[2]), ["layers_per_block=[2]", "whole number"]),
    "a refiner": (
        "sdxl", configured("unet", projection_class_embeddings_input_dim=32), ["make 36", "refiner"],
    ),
    "XL without size conditions": ("sdxl", configured("unet", addition_embed_type=None), ["addition_embed_type=None"]),
}  # fmt: skip

# the same, where only the loaded part can tell
UNUSABLE: dict[str, tuple[str, Edit, list[str]]] = {
    "a key is missing": ("uncond", weighted("unet", without(CONV_IN)), ["its unet lacks 'conv_in.weight'"]),
    "a key too many": (
        "sd", weighted("vae", lambda s: {**s, "decoder.a.weight": torch.zeros(1)}), ["'decoder.a.weight'", "no place"],
    ),
    "a shard twice": (
        "sd", lambda f: (sharded("unet")(f), shutil.copy(
            f / "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            f / "unet/diffusion_pytorch_model-00002-of-00002.safetensors")),
        ["its unet lacks 'conv_in.weight'"],
    ),
    "another shape": (
        "dit", weighted("transformer", lambda s: {**s, "proj_out_2.bias": torch.zeros(3)}),
        ["'proj_out_2.bias' of shape [3]", "asks for [16]"],
    ),
    "a text encoder's key": ("sd", weighted("text_encoder", without(FINAL)), ["its text_encoder lacks", FINAL]),
    "keys of an encoder under another name": (
        "pixart", weighted("text_encoder", renamed("block.0.", "layers.0.")), ["text_encoder lacks", "layers.0."],
    ),
    "the second text encoder's projection": (
        "sdxl", weighted("text_encoder_2", without("text_projection.weight")), ["text_encoder_2 lacks 'text_proj"],
    ),
    "a class embedder of other classes": (
        "ldm", weighted("class_embedder", lambda s: {"embedding.weight": torch.zeros(3, 8)}), ["[3, 8]", "[11, 8]"],
    ),
    "a value that is none": (
        "uncond", weighted("unet", lambda s: {**s, CONV_IN: s[CONV_IN] * torch.nan}), ["not finite in 'conv_in"],
    ),
    "a configuration that builds no network": (
        "sd", configured("unet", norm_num_groups=7), ["unet cannot be opened as a UNet2DConditionModel"],
    ),
    "a vocabulary that the encoder lacks": (
        "sd", lambda f: (configured("text_encoder", vocab_size=50)(f), weighted("text_encoder", lambda s: {
            **s, "embeddings.token_embedding.weight": s["embeddings.token_embedding.weight"][:50]})(f)),
        ["tokenizer makes tokens up to 53", "knows 50"],
    ),
    "another model's vocabulary": (
        "sd", lambda f: shutil.copy(f.parent / "other/tokenizer.json", f / "tokenizer/tokenizer.json"),
        ["tokenizer cannot be opened as a CLIPTokenizer"],
    ),
    "prompts longer than the encoder": (
        "sd", wrote("tokenizer/tokenizer_config.json", '{"model_max_length": 77}'), ["77 tokens", "takes 8"],
    ),
}  # fmt: skip


def copied(name: str, edit: Edit, folders: dict[str, Path], to: Path) -> ModelComponent:
    """The family's component on an edited copy of its folder; `A as B` is B's on A's."""
    family, _, other = name.partition(" as ")
    folder = to / "m"
    shutil.copytree(folders[family], folder)
    shutil.copytree(folders["pixart"] / "tokenizer", to / "other")
    edit(folder)
    return component(other or family, folder)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_folder_says_of_itself_is_refused_by_name_before_it_is_loaded(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    family, edit, told = REFUSED[name]
    model = copied(family, edit, tiny_folders, tmp_path)
    with pytest.raises(ValueError, match=r"^model\.") as refused:
        model.check()
    assert not [part for part in told if part not in str(refused.value)], refused.value


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_only_the_weights_tell_is_refused_by_name_when_they_are_read(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    family, edit, told = UNUSABLE[name]
    model = copied(family, edit, tiny_folders, tmp_path)
    model.check()
    with pytest.raises(UnusableModelError, match=r"^model\.") as refused:
        model.load()
    assert not [part for part in told if part not in str(refused.value)], refused.value


SAME: dict[str, tuple[str, Edit]] = {  # opened, and the very same network
    "pickled": ("sd", lambda f: [pickled(part)(f) for part in ("unet", "vae", "text_encoder")]),
    "in shards": ("sd", lambda f: [sharded(part)(f) for part in ("unet", "text_encoder")]),
    "positions of old files": (
        "sd", weighted("text_encoder", lambda s: {**s, "text_model.embeddings.position_ids": torch.arange(8)[None]}),
    ),
    "tied embeddings twice": (
        "pixart", weighted("text_encoder", lambda s: {**s, "encoder.embed_tokens.weight": s["shared.weight"].clone()}),
    ),
    "tied embeddings under the other name": (
        "pixart", weighted("text_encoder", renamed("shared.", "encoder.embed_tokens.")),
    ),
    "no pipeline named": ("sd", removed("model_index.json")),
    "defaults left out": ("sd", lambda f: (f / "unet/config.json").write_text(json.dumps({
        key: value for key, value in json.loads((f / "unet/config.json").read_text()).items()
        if key not in ("in_channels", "out_channels", "mid_block_type", "layers_per_block", "attention_type")}))),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
@torch.no_grad()
def test_the_same_weights_in_another_form_are_the_same_network(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    family, edit = SAME[name]
    models = [copied(family, edit, tiny_folders, tmp_path), component(family, tiny_folders[family])]
    models[0].check()
    drawn = [_called(model.load()) for model in models]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*drawn, strict=True))


def _called(model: DiffusionModel) -> tuple[Tensor, ...]:
    labels = torch.tensor([0, 1])
    x = torch.randn(2, *model.component.latent_shape, generator=torch.Generator().manual_seed(0))
    cond = model.condition(labels)
    eps = model.denoiser(x, call=0, timestep=torch.tensor(400), cond=cond, reuse={}).eps_NCHW
    return eps, model.decode(x), *(() if cond is None else (cond,))


@pytest.mark.parametrize("edit", [halved, lambda part: sharded(part, variant="fp16")], ids=["one file", "shards"])
def test_a_variant_alone_is_opened_as_the_stock_pipeline_opens_it(
    edit: Callable[[str], Edit], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    parts = {"unet": UNet2DConditionModel, "text_encoder": None, "vae": None}
    model = copied("sd", lambda folder: [edit(part)(folder) for part in parts], tiny_folders, tmp_path)
    model.check()
    assert model.layers() == component("sd", tiny_folders["sd"]).layers()
    network: Any = model.load().denoiser.network.backbone
    stock = UNet2DConditionModel.from_pretrained(tmp_path / "m/unet", variant="fp16").state_dict()
    assert all(torch.equal(tensor, stock[name].float()) for name, tensor in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float32


def test_plain_files_come_before_a_variant_and_safetensors_before_pickles(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_folders["sd"] / "unet", tmp_path / "unet")
    plain = tmp_path / UNET
    for other in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        shutil.copy(plain, plain.with_name(other))
    found = weight_files(tmp_path / "unet")
    assert found is not None
    assert (found.paths, found.variant, found.safetensors) == ((plain,), None, True)


@torch.no_grad()
def test_a_learned_variance_of_a_unet_is_dropped(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_folders["uncond"], folder)
    unet = tiny_church_unet()
    twice = UNet2DModel.from_config({**unet.config, "out_channels": 8})
    state = unet.state_dict()
    for name in ("conv_out.weight", "conv_out.bias"):
        state[name] = torch.cat([state[name], torch.randn_like(state[name])])
    twice.load_state_dict(state)
    twice.save_pretrained(folder / "unet")
    model = component("uncond", folder)
    model.check()
    loaded = tried(model.load(), ((0, (model.site,)),), num_steps=10)
    x = torch.randn(2, 4, 8, 8)
    out = loaded.denoiser(x, call=0, timestep=torch.tensor(400), cond=None, reuse={})
    torch.testing.assert_close(out.eps_NCHW, unet(x, 400).sample)


@torch.no_grad()
def test_a_cut_that_leaves_out_a_step_is_refused_with_its_site(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale behind the last layer, as Fourier time embeddings have one, which the cached call does not know."""
    model = component("sd", tiny_folders["sd"])
    loaded = model.load()
    phases = ((0, (model.site,)),)
    assert tried(loaded, phases, num_steps=4) is loaded
    backbone = loaded.denoiser.network.backbone
    forward = type(backbone).forward
    scaled = lambda self, *args, **options: (forward(self, *args, **options)[0] / 500,)  # noqa: E731
    monkeypatch.setattr(type(backbone), "forward", scaled)
    with pytest.raises(UnusableModelError, match=r"at up_blocks\.1\.resnets\.2 differs by up to .*schedule=none"):
        tried(loaded, phases, num_steps=4)
    assert tried(loaded, (), num_steps=4) is loaded  # uncached it may be drawn


def test_a_network_that_fails_or_returns_no_numbers_is_refused_at_its_first_call(
    tiny_folders: dict[str, Path],
) -> None:
    loaded = component("uncond", tiny_folders["uncond"]).load()
    other = replace(loaded, component=replace(loaded.component, latent_shape=(4, 7, 7)))  # type: ignore[type-var]
    with pytest.raises(UnusableModelError, match=r"fails at its first call, on a state of shape \[4, 7, 7\]"):
        tried(other, (), num_steps=4)
    loaded.denoiser.network.backbone.conv_out.bias.fill_(torch.inf)
    with pytest.raises(UnusableModelError, match=r"not finite at its first call, in float32"):
        tried(loaded, (), num_steps=4)


class Stock(NamedTuple):
    """A pipeline of diffusers, what it is called with, and our family."""

    family: str
    kind: Any
    options: dict[str, Any]


SIZE = {"height": 32, "width": 32}
PIXART = {**SIZE, "use_resolution_binning": False, "clean_caption": False}
STOCK: dict[str, tuple[Stock, float | None, Edit]] = {  # drawn as the stock pipeline does, at this guidance
    "sd without guidance": (Stock("sd", StableDiffusionPipeline, SIZE), 0, lambda _: None),
    "sd at 1": (Stock("sd", StableDiffusionPipeline, SIZE), 1.0, lambda _: None),
    "sdxl at 0.5": (Stock("sdxl", StableDiffusionXLPipeline, SIZE), 0.5, lambda _: None),
    "pixart without guidance": (Stock("pixart", PixArtSigmaPipeline, PIXART), None, lambda _: None),
    "an attention mask": (
        Stock("sd", StableDiffusionPipeline, SIZE), 3.0, configured("text_encoder", use_attention_mask=True),
    ),
    "an empty prompt that is read": (
        Stock("sdxl", StableDiffusionXLPipeline, SIZE), 5.0, configured("", force_zeros_for_empty_prompt=False),
    ),
    "latents' moments": (
        Stock("sdxl", StableDiffusionXLPipeline, SIZE), 5.0,
        configured("vae", latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.5, 1.0, 2.0]),
    ),
    "no middle": (Stock("sd", StableDiffusionPipeline, SIZE), 3.0, without_middle),
    "PixArt-alpha": (
        Stock("pixart", PixArtAlphaPipeline, PIXART), 4.5, configured("", _class_name="PixArtAlphaPipeline"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOCK)
@torch.no_grad()
def test_what_is_opened_draws_what_the_stock_pipeline_draws(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Images to a grey level; the scheduler that is stored, in both."""
    stock, guidance, edit = STOCK[name]
    family, pipeline = stock.family, stock.kind
    model = replace(copied(family, edit, tiny_folders, tmp_path), guidance=guidance)  # type: ignore[type-var]
    model.check()
    loaded = tried(model.load(), ((0, (model.site,)),), num_steps=4)
    if family != "sd":
        loaded = replace(loaded, sampler=DDIM())
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1])
    scheduler = loaded.noise_scheduler(4)
    calls = len(scheduler.timesteps)
    cond = loaded.condition(labels)
    assert cond is not None
    assert len(cond) == (4 if guidance is not None and guidance > 1 else 2)
    schedule = CacheSchedule(num_calls=calls, refresh_calls=tuple(range(calls)), planner="test", interval=1)
    *_, last = denoise(loaded.denoiser, scheduler, noise, cond=cond, acceleration=Acceleration(schedule=schedule))
    pipe = pipeline.from_pretrained(tmp_path / "m")
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        list(loaded.captions(labels)), num_inference_steps=4, guidance_scale=guidance or 0, latents=noise,
        output_type="pt", **stock.options,
    ).images  # fmt: skip
    ours = loaded.decode(last.x_NCHW).float() / 255
    assert float((ours - drawn).abs().max()) < 0.6 / 255 + 1e-4
    assert float(drawn.std()) > 0.01


def test_classes_without_guidance_are_those_of_the_labels_alone(tiny_folders: dict[str, Path]) -> None:
    for family in ("ldm", "dit"):
        model: Any = component(family, tiny_folders[family])
        conds = [
            replace(model, guidance=scale).load().condition(torch.tensor([3, 7])) for scale in (None, 0.0, 1.0, 1.5)
        ]
        assert [len(cond) for cond in conds] == [2, 2, 2, 4]
        assert torch.equal(conds[0], conds[1])
        assert torch.equal(conds[0], conds[2])


def test_defaults_are_those_of_the_classes() -> None:
    for name, settings in DEFAULTS.items():
        known = inspect.signature(getattr(diffusers, name).__init__).parameters
        assert {key: known[key].default for key in settings} == settings
    assert all(set(settings) <= set(inspect.signature(getattr(diffusers, name).__init__).parameters)
               for name, settings in KNOWN.items())  # fmt: skip


@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
@torch.no_grad()
def test_every_block_that_is_known_can_be_cut(kind: str) -> None:
    """At every site, the cached call is the full one bit for bit; sides that levels do not divide where they may be."""
    conditional = kind == "UNet2DConditionModel"
    known, x = KNOWN[kind], torch.randn(1, 4, 8, 8 if not conditional else 10)
    options: dict[str, Any] = {"attention_head_dim": 4}
    if conditional:
        options = {"cross_attention_dim": 8, "attention_head_dim": 2, "resnet_skip_time_act": True, "conv_in_kernel": 1}
    for down, up in zip(known["down_block_types"], known["up_block_types"], strict=True):
        for middle in known["mid_block_type"]:
            torch.manual_seed(0)
            unet = getattr(diffusers, kind)(
                sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
                down_block_types=(down, down), up_block_types=(up, up), mid_block_type=middle, norm_num_groups=4,
                **options,
            ).eval()  # fmt: skip
            network = UNetCut(unet)
            cond = torch.randn(1, 3, 8) if conditional else None
            sites = tuple(main_channels(unet))
            full, maps = network.full(x, torch.tensor(400), cond, record=sites)
            for site in sites:
                assert torch.equal(network.shallow(x, torch.tensor(400), cond, reuse={site: maps[site]}), full)
            layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
            units = network.units()
            assert all(sum(f"{name}.".startswith(f"{unit}.") for unit in units) == 1 for name in layers)


def test_a_model_that_cannot_be_used_refuses_the_run_and_leaves_no_record(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when it is loaded, and so before anything is computed; a run that is not cached asks nothing of the cut."""
    shallow = UNetCut.shallow
    monkeypatch.setattr(UNetCut, "shallow", lambda self, *given, **reuse: shallow(self, *given, **reuse) / 500)
    config, choices = composed(quick(tiny_folders["ldm"], tmp_path, "model=ldm_mini", "schedule=uniform"))
    with pytest.raises(UnusableModelError, match=r"a cached call of its network at up_blocks\.2\.resnets\.2 differs"):
        execute(config, choices)
    assert not (tmp_path / "records.jsonl").exists()
    assert list((tmp_path / "store").rglob("*.safetensors")) == []
    config, choices = composed(quick(tiny_folders["ldm"], tmp_path, "model=ldm_mini", "schedule=none"))
    assert execute(config, choices).status == "ok"


@pytest.mark.parametrize("scale", ["0", "null"])
def test_the_configuration_takes_no_guidance(scale: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_folders["sd"]
    overrides = ["model=sd_mini", "sampler=plms", f"model.guidance={scale}", f"model.prompts={folder}"]
    parts = Components.of(composed(quick(folder, tmp_path, *overrides, "model.site=up_blocks.1.resnets.2"))[0])
    assert guiding(parts.model.guidance) is None
