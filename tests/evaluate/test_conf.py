"""Every yaml of the groups `metric` and `evaluate` composes, and lists exactly the fields of its class."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cq.laws.choices import component_node
from cq.run.config import CONF


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root configuration with nothing but the group `evaluate`."""
    folder = tmp_path_factory.mktemp("conf")
    for group in ("metric", "evaluate"):
        (folder / group).symlink_to(CONF / group)
    (folder / "config.yaml").write_text("defaults: [evaluate: class_conditional]\n")
    return folder


@pytest.mark.parametrize("name", names("metric"))
def test_a_metric_lists_every_field_of_its_class_and_nothing_else(name: str) -> None:
    node: dict[str, Any] = OmegaConf.to_container(component_node("metric", name))  # type: ignore[assignment]
    module, _, kind = node.pop("_target_").rpartition(".")
    metric = getattr(importlib.import_module(module), kind)
    fields = dataclasses.fields(metric)
    assert set(node) == {field.name for field in fields}
    assert all(field.default is dataclasses.MISSING for field in fields)
    metric(**node)  # the shipped numbers pass its own checks


@pytest.mark.parametrize("name", names("evaluate"))
def test_an_evaluation_composes_into_named_metrics(name: str, root: Path) -> None:
    with initialize_config_dir(str(root), version_base="1.3"):
        config = compose("config", overrides=[f"evaluate={name}"])
    assert set(config) == {"metrics"}
    for key, node in config.metrics.items():
        listed = OmegaConf.to_container(component_node("metric", str(key)))
        assert OmegaConf.to_container(node) == listed


def test_nothing_is_scored_with_none(root: Path) -> None:
    with initialize_config_dir(str(root), version_base="1.3"):
        assert compose("config", overrides=["evaluate=none"]).metrics == {}


def test_several_backbones_judge_one_run(root: Path) -> None:
    """Under names of their own in `metrics`; the keys of their scores and the places of their weights follow."""
    chosen = [f"metrics.second.{key}" for key in ("backbone=ViT-B-32", "pretrained=openai")]
    added = ["+metric@metrics.first=clip_score", "+metric@metrics.second=clip_score", "+paths.data=data"]
    with initialize_config_dir(str(root), version_base="1.3"):
        config = compose("config", overrides=["evaluate=text_to_image", *added, *chosen])
    first, second = instantiate(config.metrics.first), instantiate(config.metrics.second)
    assert first.metric == "clip_score_vit_g_14_laion2b_s34b_b88k"
    assert second.metric == "clip_score_vit_b_32_openai"
    assert second.weights == "data/clip/ViT-B-32_openai.safetensors"
