"""The head of a safetensors file: which tensors it holds, of what shape. Reads no tensor and needs no torch."""

import json
from pathlib import Path
from typing import Any

LFS = b"version https://git-lfs"  # how the text begins that stands for a large file until git fetches it
FLOATS = ("F64", "F32", "F16", "BF16")


def shapes_of(path: Path) -> dict[str, list[int]] | None:
    """Tensor name to shape; None for a file that is missing or no safetensors file, which loading it reports."""
    try:
        return {name: list(stored["shape"]) for name, stored in _tensors(path).items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def fault_of(path: Path) -> str | None:
    """What is wrong with a file of weights, as the end of a sentence; None where nothing is.

    A .safetensors file must be as long as its head says and hold parameters as floats; of others only the beginning
    is looked at.
    """
    if not path.is_file():
        return "is not there"
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(len(LFS))
    if begin == LFS:
        return f"is a git-lfs pointer of {size} bytes, and not the weights it stands for (fetch them: git lfs pull)"
    if path.suffix != ".safetensors":
        return None if size else "is empty"
    try:
        tensors = _tensors(path)
        end = 8 + int.from_bytes(begin[:8], "little") + max((t["data_offsets"][1] for t in tensors.values()), default=0)
        coded = {t["dtype"] for name, t in tensors.items() if name.endswith((".weight", ".bias"))} - set(FLOATS)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return f"is no safetensors file, or the beginning of one ({size} bytes)"
    if end != size:
        return f"has {size} bytes, and its head says {end}: it was cut off or changed"
    if coded:
        return f"holds weights as {', '.join(sorted(coded))}, and only {', '.join(FLOATS)} are read"
    return None


def _tensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = min(int.from_bytes(file.read(8), "little"), path.stat().st_size)
        head = json.loads(file.read(size))
    return {name: stored for name, stored in head.items() if name != "__metadata__"}
