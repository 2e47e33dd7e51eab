"""The command that makes a folder of an original checkpoint, and what the model's component says to such folders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from cq.cli.convert import convert_file, main
from cq.laws.choices import component_node
from cq.models.architecture import architecture
from cq.run.building import build
from tests.models.test_original import Original, narrow


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Narrow ones of every kind of network."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("ldm_church256", "ldm_imagenet256"):
        torch.save(Original.of(narrow(name)[0]).checkpoint, folder / f"{name}.ckpt")
    return {path.stem: path for path in folder.glob("*.ckpt")}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.models.architecture.architecture", lambda name: narrow(name)[1])


def component(name: str, folder: Path, **changes: Any) -> Any:
    """The model of conf/model with what the narrow one has otherwise."""
    made = build(OmegaConf.merge(component_node("model", name), {"weights": str(folder)}), "model")
    return dataclasses.replace(made, num_classes=10 if made.num_classes else 0, **changes)


def run(*arguments: Any) -> int:
    return main([*map(str, arguments)])


@torch.no_grad()
def test_a_converted_folder_opens_as_the_models_yaml_says(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Church: averaged weights, 8 heads at every width, the checkpoint's scale; all of it from the folder."""
    folder = tmp_path / "new/church"
    assert run("ldm_church256", checkpoints["ldm_church256"], folder) == 0
    assert json.loads((folder / "converted_from.json").read_text())["ema"] is True
    assert [path.name for path in folder.parent.iterdir()] == ["church"]
    chosen = component("ldm_church256", folder)
    chosen.check()
    model = chosen.load()
    original = Original.of(narrow("ldm_church256")[0])
    x, t = torch.randn(1, 4, 32, 32), torch.tensor(500)
    out = model.denoiser(x, call=0, timestep=t, cond=None, reuse={})
    assert_close(out.eps_NCHW, original.averaged(x, t[None]), rtol=1e-4, atol=1e-4)
    again = model.denoiser(x, call=0, timestep=t, cond=None, reuse=out.features)
    assert torch.equal(again.eps_NCHW, out.eps_NCHW)
    assert model.vae.config.scaling_factor == pytest.approx(0.22765929)
    assert chosen.noise["beta_end"] == 0.0155
    scheduler = model.noise_scheduler(100)
    assert (int(scheduler.timesteps[0]), int(scheduler.timesteps[-1])) == (991, 1)
    assert float(scheduler.final_alpha_cumprod) == float(scheduler.alphas_cumprod[0])
    other = dataclasses.replace(chosen, release=dataclasses.replace(chosen.release, ema=False))
    with pytest.raises(ValueError, match=r"model\.release\.ema=False: .*converted with ema=True"):
        other.check()
    other = dataclasses.replace(chosen, release=dataclasses.replace(chosen.release, beta_end=0.02))
    with pytest.raises(ValueError, match=r"model\.release\.beta_end=0\.02: the stored scheduler has 0\.0155"):
        other.check()


@torch.no_grad()
def test_classes_and_a_codebook_come_along(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "imagenet"
    assert run("ldm_imagenet256", checkpoints["ldm_imagenet256"], folder) == 0
    chosen = component("ldm_imagenet256", folder, latent_shape=(3, 16, 16), image_shape=(3, 64, 64))
    chosen.check()
    model = chosen.load()
    original = Original.of(narrow("ldm_imagenet256")[0])
    labels = torch.tensor([3])
    x, cond = torch.randn(1, 3, 16, 16), model.condition(labels)
    null, given = (
        original.unet(x, torch.tensor([500]), original.classes.embedding(k)[:, None]) for k in (labels + 7, labels)
    )
    guided = null + 1.5 * (given - null)
    out = model.denoiser(x, call=0, timestep=torch.tensor(500), cond=cond, reuse={})
    assert_close(out.eps_NCHW, guided, rtol=1e-4, atol=1e-4)
    drawn = original.first_stage.decode(x)
    expected = ((drawn.clamp(-1, 1) + 1) * 127.5).round()
    assert float((model.decode(x).float() - expected).abs().max()) <= 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sd_v1_4", "x.ckpt", "f"], ["model=sd_v1_4: has no original checkpoint", "ldm_church256"]),
        (["ldm_church256", "x.ckpt", "f"], ["checkpoint=x.ckpt: there is no such file"]),
        (["ldm_church256", "CKPT", "."], ["folder=.: is there already"]),
        (["ldm_church256", "junk", "f"], ["junk: cannot be read", "Download it again"]),
        (["ldm_church256", "ab", "f"], ["ab: cannot be read", "Download it again"]),
        (["ldm_church256", "OTHER", "f"], ["as ldm_church256: UNet2DModel: the checkpoint lacks", "another model's"]),
    ],
)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(
    arguments: list[str], told: list[str], checkpoints: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("junk", "ab"):  # what breaks PyTorch's reader in ways of its own
        (checkpoints["ldm_church256"].parent / name).write_text(name)
    files = {"CKPT": checkpoints["ldm_church256"], "OTHER": checkpoints["ldm_imagenet256"]}
    files |= {name: checkpoints["ldm_church256"].parent / name for name in ("junk", "ab")}
    assert run(*(files.get(argument, argument) for argument in arguments)) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in told), message
    assert list(tmp_path.iterdir()) == []


def test_a_killed_conversion_leaves_no_folder(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)  # everything is written by then
    with pytest.raises(KeyboardInterrupt):
        convert_file(checkpoints["ldm_church256"], tmp_path / "folder", "ldm_church256", ema=True)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"architecture='ldm_chuch256'.*ldm_church256"):
        architecture("ldm_chuch256")
