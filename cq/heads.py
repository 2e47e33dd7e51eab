"""The head of a safetensors file: which tensors it holds, of what shape. Reads no tensor and needs no torch."""

import json
from pathlib import Path


def shapes_of(path: Path) -> dict[str, list[int]] | None:
    """Tensor name to shape; None where the file is missing or no safetensors file, which whoever loads it will say."""
    try:
        with path.open("rb") as file:
            size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
            head = json.loads(file.read(size))
        return {name: list(stored["shape"]) for name, stored in head.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
