"""Every choice of a group, found by glob and built as the command line builds it: a new yaml meets its group's laws."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cq.run.building import build
from cq.run.compose import composed, composing
from cq.run.config import CONF


def names(group: str) -> list[str]:
    """The choices of a group, those in subfolders included."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


NO_COMPONENTS = (
    "debug",
    "evaluate",
    "hydra",
    "paths",
    "scale",
    "search",
    "table",
)  # these set other groups' choices and numbers
SLOTS = {"correct": "correct@correct.cache", "metric": "+metric@metrics.one"}  # of groups used under other names


def components() -> list[tuple[str, str]]:
    """Group and name of every choice that is a component."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in NO_COMPONENTS)
    return [(group, name) for group in groups for name in names(group)]


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
