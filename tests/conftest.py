"""Strictness, and the tiny real models every test may use. Nothing is seeded at import."""

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import omegaconf._utils
import pytest
import yaml
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from omegaconf._utils import get_yaml_loader

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers wait for one another, at a fifth of the speed
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from cq.models.latent import LatentDiffusion
from cq.run import identity, preflight
from tests.families import WRITERS
from tests.tiny import write_tiny_ldm


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def judges_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files of every judge were on this machine, and whatever is drawn had captions."""
    check_metrics = preflight.check_metrics
    monkeypatch.setattr(
        "cq.run.components.check_metrics",
        lambda metrics, drawn: check_metrics(metrics, replace(drawn, captioned=True), may_lack=True),
    )


@pytest.fixture(scope="session", autouse=True)
def _committed() -> Iterator[None]:
    """Questions have the names that they have for committed code, also while the code is being changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "changed_modules", dict)
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_quickly() -> Iterator[None]:
    """Hydra reads forty files whenever something is composed, thousands of times here: each is read and parsed once.

    And what names in a defaults list may refer to is gathered where one of them does refer to anything.
    """
    load, gathered, read = yaml.load, defaults_list._create_interpolation_map, ConfigRepository.load_config
    files: dict[tuple[Any, ...], Any] = {}
    parsed = cache(lambda text: load(text, Loader=get_yaml_loader()))

    def loaded(stream: Any, Loader: Any) -> Any:
        if Loader.__name__ != "OmegaConfLoader":
            return load(stream, Loader)
        text = stream if isinstance(stream, str) else stream.read()
        try:
            return parsed(text)  # OmegaConf makes nodes of its own of all that is in it
        except yaml.YAMLError:
            if not isinstance(stream, str):
                stream.seek(0)
            return load(stream, Loader)  # whose error names the file

    def referred_to(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        refers = any(each.is_interpolation() for each in defaults)
        return gathered(overrides, defaults, self_added) if refers else None

    def once(self: ConfigRepository, config_path: str) -> Any:
        source: Any = self._find_object_source(config_path, ObjectType.CONFIG)
        kind = type(source).__name__  # Hydra makes its plugins' classes twice: these are not those of an import here
        key: tuple[Any, ...]
        if kind == "FileConfigSource":
            file = Path(source.path, source._normalize_file_name(config_path))
            key = (file, source.provider, file.stat().st_mtime_ns, file.stat().st_size)
        elif kind == "ImportlibResourcesConfigSource":  # Hydra's own files
            key = (source.path, source.provider, config_path)
        else:
            return read(self, config_path)
        if key not in files:
            files[key] = read(self, config_path)
        return deepcopy(files[key])  # what is composed is made of its nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", once)
        patch.setattr(defaults_list, "_create_interpolation_map", referred_to)
        patch.setattr(omegaconf._utils, "get_yaml_loader", cache(get_yaml_loader))
        patch.setattr(yaml, "load", loaded)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight latent diffusion model of ldm_mini's topology, as diffusers folders."""
    folder = tmp_path_factory.mktemp("tiny_ldm")
    write_tiny_ldm(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random-weight model of every family (tests/families.py), as diffusers folders."""
    folders = {}
    for family, write in WRITERS.items():
        folders[family] = tmp_path_factory.mktemp(family)
        write(folders[family])
    return folders


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion(
        weights=str(tiny_folder),
        site="up_blocks.2.resnets.2",
        guidance=1.5,
        num_classes=10,
        latent_shape=(4, 8, 8),
        image_shape=(1, 32, 32),
        release=None,
    )
