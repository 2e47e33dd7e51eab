"""What a model's folder says of a network without loading it: milliseconds, and neither torch nor diffusers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cq.zoo.locate import locate

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers renames at load


def part_config(weights: str, name: str) -> Mapping[str, Any]:
    """The configuration of a part of the model's folder. Raises ValueError where there is none."""
    path = locate(weights) / name / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.weights={weights!r}: {path} cannot be read ({error}). Give a folder in diffusers' layout."
        ) from error
    return config


def stored_layers(weights: str, name: str) -> frozenset[str] | None:
    """Names of a network's convolutions, linear layers and attentions, read off the heads of its weight files.

    There may be embeddings among them, whose weights look like a linear layer's. A network built from its
    configuration would name exactly the layers, but importing diffusers for that takes longer than all other checks.
    None where no weights can be read as safetensors; a damaged file is named when it is loaded.
    """
    names: set[str] = set()
    for path in (locate(weights) / name).glob("*.safetensors"):
        try:
            shapes = _shapes(path)
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            return None
        for key, shape in shapes.items():
            layer, _, kind = key.rpartition(".")
            if kind != "weight" or len(shape) not in (2, 4):
                continue
            parent, _, last = layer.rpartition(".")
            renamed = f"{parent}.{LEGACY_NAMES[last]}" if last in LEGACY_NAMES else layer
            names |= {layer, renamed}
            if renamed.endswith(".to_q"):
                names.add(renamed.removesuffix(".to_q"))
    return frozenset(names) or None


def _shapes(path: Path) -> dict[str, list[int]]:
    """The head of a safetensors file: its length in eight bytes, then JSON."""
    with path.open("rb") as file:
        size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
        head = json.loads(file.read(size))
    return {key: list(stored["shape"]) for key, stored in head.items() if key != "__metadata__"}
