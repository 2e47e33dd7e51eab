"""Every choice of a group, found by glob and built as the command line builds it: a new yaml meets its group's laws."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cq.run.building import build
from cq.run.config import CONF


def names(group: str) -> list[str]:
    """The choices of a group, those in subfolders included."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def component_node(group: str, name: str) -> Any:
    """What a yaml says of its component: all of it, or what stands under the group's name beside other defaults."""
    document = OmegaConf.load(CONF / group / f"{name}.yaml")
    return document.get(group, document) if isinstance(document, DictConfig) else document


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
