"""Shards: the finished parts of an unfinished artefact, each with a checksum of its own.

A finished artefact is checked by `Artifact.load`; until then nothing but these checksums stands between a byte that
changed on disk and the digest of what is made from it.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cq.core.artifacts import digest_of_tensor
from cq.core.checksum import digest_of
from cq.core.store import write_atomically

log = logging.getLogger(__name__)

CHECKSUM = "sha256"  # in the metadata of the safetensors file, so that content and checksum cannot be parted


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard that is there whole or not at all, with the SHA-256 of its names, types, shapes and values."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(whole, metadata={CHECKSUM: _checksum(whole)}))


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a shard, bit for bit as they were written; None where it has to be made (again).

    That is where there is none, and, with a warning, where it is damaged or carries no checksum.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get(CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        reason = "" if stated == _checksum(tensors) else "its content is not what its checksum says"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read: {error}"
    if not reason:
        return tensors
    log.warning("%s: this shard is damaged (%s); it is not used, and made again", path, reason)
    return None


def present(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a shard, on the CPU; it is made and written where there is none, or a damaged one."""
    found = read(path)
    if found is None:
        found = {name: tensor.cpu() for name, tensor in make().items()}
        write(path, found)
    return found


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest_of({name: digest_of_tensor(tensor) for name, tensor in tensors.items()})
