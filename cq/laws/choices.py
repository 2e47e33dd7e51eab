"""Every choice of a group, found by glob and built as the command line builds it: a new yaml meets its group's laws."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cq.laws.law import hold
from cq.run.building import build, component_named
from cq.run.compose import composed, composing
from cq.run.config import CONF


def names(group: str, folder: Path = CONF) -> list[str]:
    """The choices of a group in a folder of yaml, those in subfolders included."""
    return sorted(str(path.relative_to(folder / group).with_suffix("")) for path in (folder / group).rglob("*.yaml"))


# these set other groups' choices and numbers
NO_COMPONENTS = ("bench", "debug", "evaluate", "experiment", "hydra", "paths", "recipe", "scale", "search", "table")
SLOTS = {"correct": "correct@correct.cache", "metric": "+metric@metrics.one"}  # of groups used under other names


def components(folder: Path = CONF) -> list[tuple[str, str]]:
    """Group and name of every choice that is a component."""
    groups = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in NO_COMPONENTS)
    return [(group, name) for group in groups for name in names(group, folder)]


def check_fields(group: str, name: str, met: set[str]) -> None:
    """Raise Broken unless a choice, with what it inherits, lists every field of its class, which is frozen.

    met: where the targets are noted.
    """
    for node in nodes(OmegaConf.to_container(component_node(group, name))):
        met.add(node["_target_"])
        kind = component_named(node["_target_"], f"{group}={name}")
        told = f"{group}={name}: {node['_target_']}"
        lacking = sorted({field.name for field in dataclasses.fields(kind)} - set(node))
        hold(
            not lacking, f"{told}: the yaml lacks {', '.join(lacking)}. List every field, so that it can be overridden."
        )
        frozen = kind.__dataclass_params__.frozen
        hold(frozen, f"{told}: is no frozen dataclass. Write @dataclass(frozen=True, kw_only=True).")


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`, nested ones included."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from nodes(item)


def component_node(group: str, name: str) -> Any:
    """What a choice composes to, with what it inherits; references to other keys stay as they are."""
    return OmegaConf.create(_container(group, name))


@cache
def _container(group: str, name: str) -> Any:
    slot = SLOTS.get(group, group)
    with composing():
        config, _ = composed([f"{slot}={name}"])
    return OmegaConf.to_container(OmegaConf.select(config, slot.partition("@")[2] or slot))


def built(
    group: str, name: str, *, num_steps: int = 50, interval: int = 5, bits: int = 8, data: str = "data", **fields: Any
) -> Any:
    """The component of conf/group/name.yaml under a budget.

    fields: what overrides on the command line would set, wherever the yaml, or a component inside it, has such a key.
    """
    root = OmegaConf.create(
        {
            "budget": {"num_steps": num_steps, "cache_interval": interval, "weight_bits": bits, "act_bits": bits},
            "paths": {"data": data},
            "node": component_node(group, name),
        }
    )
    for node in _nodes(root.node):
        node.update({key: value for key, value in fields.items() if key in list(node.keys())})  # "???" counts, too
    return build(root.node, group)


def _nodes(node: DictConfig) -> Iterator[DictConfig]:
    yield node
    for key in list(node.keys()):
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from _nodes(node[key])
