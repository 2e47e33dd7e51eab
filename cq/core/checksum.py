"""SHA-256 of files and of JSON values. Needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**24):  # hashlib's own file_digest is of Python 3.11
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in canonical form; the name of whatever it fully determines."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """Names the protocol of a score: scores share a column only where it is equal."""
    return digest_of(dict(protocol))[:12]
