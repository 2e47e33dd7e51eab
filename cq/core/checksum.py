"""SHA-256 of files and of JSON values. Needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in canonical form; the name of whatever it fully determines."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_of(protocol: Mapping[str, Any]) -> str:
    """Names the protocol of a score: scores share a column only where it is equal."""
    return digest_of(dict(protocol))[:12]
