"""What many records share, beside the record files, each once: FOLDER/KIND/FINGERPRINT.json.

A record's line names the protocols of its scores and the longer groups of its configuration by their fingerprints,
which their content must have: neither can be changed unseen.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cq.core.checksum import fingerprint_of
from cq.core.store import write_atomically

Kind = Literal["protocols", "configs"]
Apart = Callable[[Kind, str], Mapping[str, Any]]  # what a fingerprint names

_NAMED = "kept"  # a group of a configuration that holds this alone is a name
_LONG = 150  # characters of JSON from which on a group is named


class ApartError(ValueError):
    """What a record names is missing, or is not what it was when it was named."""


def keep(folder: Path, kind: Kind, content: Mapping[str, Any]) -> str:
    """Write `content` where it is not there yet; return its fingerprint."""
    fingerprint = fingerprint_of(content)
    path = _file(folder, kind, fingerprint)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return fingerprint


def kept(folder: Path, kind: Kind, fingerprint: str) -> Mapping[str, Any]:
    """The content of this fingerprint. Raises ApartError where it is missing or another one."""
    path = _file(folder, kind, fingerprint)
    try:
        content: Mapping[str, Any] = json.loads(path.read_bytes())
        wrong = None if fingerprint_of(content) == fingerprint else "was changed after it was written"
    except FileNotFoundError:
        wrong = "is not there"
    except (ValueError, TypeError):
        wrong = "cannot be read"
    if wrong is not None:
        names = {"protocols": "its scores name the protocol", "configs": "its configuration names the group"}[kind]
        raise ApartError(
            f"{names} {fingerprint}, and {path} {wrong}. Put it back from where the records come "
            f"from: the folder {path.parent.name}/ goes with its record files."
        )
    return content


def parted(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration whose longer groups are kept in `folder` and named."""
    groups = [group for group, content in config.items() if isinstance(content, dict)]
    long = [group for group in groups if len(json.dumps(config[group])) > _LONG]
    return {**config, **{group: {_NAMED: keep(folder, "configs", config[group])} for group in long}}


def together(config: Mapping[str, Any], apart: Apart) -> dict[str, Any]:
    """A configuration, or one that was parted, with all its groups."""
    named = {group: content[_NAMED] for group, content in config.items() if _is_name(content)}
    return {**config, **{group: apart("configs", fingerprint) for group, fingerprint in named.items()}}


def _is_name(content: Any) -> bool:
    return isinstance(content, dict) and list(content) == [_NAMED]


def _file(folder: Path, kind: Kind, fingerprint: str) -> Path:
    return folder / kind / f"{fingerprint}.json"
