"""Weights of a hub: its cache first, then the hub, then one message that says what to download and where to put it."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from omegaconf import OmegaConf

from cq.laws.choices import component_node
from cq.models import locate as module
from cq.models.locate import locate
from cq.models.pixel import PixelDiffusion
from cq.run.building import build
from tests.tiny import tiny_pixel_unet, write_tiny_ddpm, write_tiny_sd

REFERENCE = "hub:org/model@main"


class Hub:
    """Stands for the hub: what its cache holds, and what it would give."""

    def __init__(self, cache: Path | None, online: Path | None) -> None:
        self.cache, self.online = cache, online
        self.asked: list[bool] = []

    def __call__(self, *, repo_id: str, revision: str, local_files_only: bool = False, **_: Any) -> str:
        assert (repo_id, revision) == ("org/model", "main")
        self.asked.append(local_files_only)
        found = self.cache if local_files_only else self.online
        if found is None:
            raise (LocalEntryNotFoundError if local_files_only else ConnectionError)("no route to it\nmore")
        return str(found)


@pytest.fixture(autouse=True)
def _forget() -> None:
    module._snapshot.cache_clear()


def put(monkeypatch: pytest.MonkeyPatch, *, cache: Path | None = None, online: Path | None = None) -> Hub:
    hub = Hub(cache, online)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    write_tiny_sd(folder)
    return folder


def test_what_the_cache_holds_whole_is_taken_without_asking(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put(monkeypatch, cache=pipeline)
    assert locate(REFERENCE) == locate(REFERENCE) == pipeline
    assert hub.asked == [True]


@pytest.mark.parametrize("cut", ["vae/diffusion_pytorch_model.safetensors", "vae", "model_index.json", "tokenizer"])
def test_what_a_killed_download_left_is_fetched_again(
    cut: str, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    shutil.copytree(pipeline, left)
    gone = left / cut
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    hub = put(monkeypatch, cache=left, online=pipeline)
    assert locate(REFERENCE) == pipeline
    assert hub.asked == [True, False]


def test_a_part_of_several_files_needs_them_all(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    shutil.copytree(pipeline, left)
    index = {"weight_map": {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}}
    (left / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (left / "unet/x-00001-of-00002.safetensors").touch()
    hub = put(monkeypatch, cache=left, online=pipeline)
    locate(REFERENCE)
    assert hub.asked == [True, False]
    module._snapshot.cache_clear()
    (left / "unet/x-00002-of-00002.safetensors").touch()
    assert locate(REFERENCE) == left


def test_half_precision_files_are_fetched_where_a_part_has_no_others(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First without them, as most repositories have both."""
    halves = tmp_path / "halves"
    shutil.copytree(pipeline, halves, ignore=shutil.ignore_patterns("*.safetensors"))
    asked: list[bool] = []

    def download(*, allow_patterns: list[str], ignore_patterns: list[str], **_: Any) -> str:
        asked.append(any("fp16" in pattern for pattern in allow_patterns))
        assert asked[-1] == all("fp16" not in pattern for pattern in ignore_patterns)
        if asked[-1]:
            for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"),
                               ("text_encoder", "model")):  # fmt: skip
                shutil.copy(pipeline / part / f"{stem}.safetensors", halves / part / f"{stem}.fp16.safetensors")
        return str(halves)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate(REFERENCE) == halves
    assert asked == [False, False, True]
    module._snapshot.cache_clear()
    assert locate(REFERENCE) == halves
    assert asked == [False, False, True, False]  # from the cache, which is whole now


@pytest.mark.parametrize("reference", ["hub:model@main", "hub:org/model", "hub:org/model@", "hub:../x@main"])
def test_another_way_to_write_a_reference_is_refused(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = put(monkeypatch)
    with pytest.raises(ValueError, match=r"must be hub:ORG/NAME@REVISION"):
        locate(reference)
    assert hub.asked == []


def published(name: str, **changes: Any) -> Any:
    return build(OmegaConf.merge(component_node("model", name), changes), "model")


def test_without_weights_one_message_says_what_how_large_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch)
    with pytest.raises(ValueError) as hub:  # noqa: PT011
        published("ddpm_cifar10", weights=REFERENCE).check()
    for part in (
        "model.weights=",
        "no route to it)",
        "Download google/ddpm-cifar10-32 from the hub",
        "0.15 GB",
        "FOLDER",
    ):
        assert part in str(hub.value)
    with pytest.raises(ValueError) as original:  # noqa: PT011
        published("ldm_church256", weights="no/such/folder").check()
    for part in (
        "no folder no/such/folder",
        "model.ckpt of lsun_churches256",
        "2.7 GB",
        "cq-convert ldm_church256",
    ):
        assert part in str(original.value)


def test_a_checkpoint_in_the_place_of_a_folder_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(ValueError, match=r"That is a file; an original checkpoint becomes a folder with: cq-convert"):
        published("ldm_church256", weights=str(tmp_path / "model.ckpt")).check()


def test_a_repository_of_one_network_opens_like_a_folder_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As google/ddpm-cifar10-32 lies on the hub: the network's files beside the scheduler's, and documents."""
    write_tiny_ddpm(tmp_path / "parts")
    flat = tmp_path / "flat"
    tiny_pixel_unet().save_pretrained(flat)
    shutil.copy(tmp_path / "parts/scheduler/scheduler_config.json", flat)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "X"]}
    (flat / "model_index.json").write_text(json.dumps(index))
    put(monkeypatch, cache=flat)
    models = [
        PixelDiffusion(weights=weights, site="up_blocks.2.resnets.2", image_shape=(3, 16, 16), release=None)
        for weights in (REFERENCE, str(tmp_path / "parts"))
    ]
    states = []
    for model in models:
        model.check()
        assert model.layers()
        states.append(model.load().denoiser.network.backbone.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(bool((states[0][key] == states[1][key]).all()) for key in states[0])
    before = models[0].weights_digest()
    (flat / "README.md").write_text("words")
    (flat / "diffusion_pytorch_model.bin").write_text("the same in another format")
    assert models[0].weights_digest() == before  # what is not opened does not decide
    (flat / "scheduler_config.json").write_text("{}")
    assert models[0].weights_digest() != before
