"""Protocols of scores beside the record files, each once: FOLDER/protocols/FINGERPRINT.json.

A record's line names them by their fingerprints, which their content must have: a protocol cannot be changed unseen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cq.core.checksum import fingerprint_of
from cq.core.store import write_atomically


class ProtocolError(ValueError):
    """The protocol of a score is missing, or is not the one that its record names."""


def keep(folder: Path, fingerprint: str, protocol: Mapping[str, Any]) -> None:
    """Write a protocol where it is not there yet. Raises ProtocolError where it has another fingerprint."""
    if fingerprint != (found := fingerprint_of(protocol)):
        raise ProtocolError(f"fingerprint={fingerprint!r}: its protocol has {found}. Name a protocol by its own.")
    path = _file(folder, fingerprint)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(protocol, indent=1) + "\n").encode())


def kept(folder: Path, fingerprint: str) -> Mapping[str, Any]:
    """The protocol of this fingerprint. Raises ProtocolError where it is missing or another one."""
    path = _file(folder, fingerprint)
    try:
        protocol: Mapping[str, Any] = json.loads(path.read_bytes())
        wrong = None if fingerprint_of(protocol) == fingerprint else "was changed after it was written"
    except FileNotFoundError:
        wrong = "is not there"
    except (ValueError, TypeError):
        wrong = "cannot be read"
    if wrong is not None:
        raise ProtocolError(
            f"its scores name the protocol {fingerprint}, and {path} {wrong}. Put it back from where the records come "
            f"from: the folder {path.parent.name}/ goes with its record files."
        )
    return protocol


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / "protocols" / f"{fingerprint}.json"
