"""What lies in a store, without reading a tensor, and how something is taken out of it (layout: `cq.core.store`)."""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cq.core.store import IN_USE

NAME = re.compile(r"[0-9a-f]{20}")
LEFT = re.compile(r"[0-9a-f]{20}\.(.*\.)?(partial|tmp|old)|again_\w+")
DIGEST = re.compile(r'"digest": "([0-9a-f]{64})"')
HEAD = 4096  # bytes of an artifact.json that hold its digest


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artefact, or what a killed run left of one. num_bytes: of all files. changed: seconds since the epoch."""

    root: Path
    path: Path
    num_bytes: int
    changed: float

    @property
    def stage(self) -> str:
        return "" if self.path.parent == self.root else self.path.parent.name

    @property
    def folder(self) -> str:
        """Below the root, as a record names it."""
        return str(self.path.relative_to(self.root))

    @property
    def whole(self) -> bool:
        """Whether it is an artefact, and no leftover."""
        return bool(NAME.fullmatch(self.path.name))

    @property
    def hours(self) -> float:
        """Since it was last written to."""
        return (time.time() - self.changed) / 3600

    @cached_property
    def digest(self) -> str:
        """Of the content, as it says itself; "" where it does not."""
        document = self.path / "artifact.json"
        if not document.is_file():
            return ""
        with document.open("rb") as file:
            found = DIGEST.search(file.read(HEAD).decode(errors="replace"))
        return found[1] if found else ""

    @property
    def key(self) -> dict[str, Any]:
        """What it was made from; {} where that cannot be read."""
        return _document(self.path / "key.json")

    @property
    def seconds(self) -> dict[str, Any]:
        """Stage to seconds of making it and what it asked for; None where that was not kept whole."""
        found: dict[str, Any] = _document(self.path / "seconds.json").get("seconds", {})
        return found

    @property
    def files(self) -> dict[str, int]:
        """Name to bytes."""
        inside = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return {str(path.relative_to(self.path)): path.stat().st_size for path in sorted(inside) if path.is_file()}


def entries(root: Path) -> list[Entry]:
    """All artefacts and leftovers of a store, by stage and age. Raises ValueError where there is none."""
    if not root.is_dir():
        raise ValueError(f"--store={root}: there is no such folder. Name the store: paths.store of the runs.")
    found = []
    for path in (*root.iterdir(), *root.glob("*/*")):
        stands = NAME.fullmatch(path.name) and path.parent != root
        replaced = path.suffix == ".old" and not path.with_suffix("").exists()  # killed in between: the next run
        if not replaced and (stands or LEFT.fullmatch(path.name)):  # puts it back
            try:
                inside = [each.stat() for each in (path, *path.rglob("*"))]
            except FileNotFoundError:  # renamed by its writer while we look
                continue
            size, changed = sum(each.st_size for each in inside), max(each.st_mtime for each in inside)
            found.append(Entry(root=root, path=path, num_bytes=size, changed=changed))
    return sorted(found, key=lambda entry: (entry.stage, entry.changed))


def is_held(path: Path) -> bool:
    """Whether somebody is making the artefact that `path` is, or is a leftover of."""
    lock = path.with_name(f"{path.name.partition('.')[0]}.lock")
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Let no run begin to use the store meanwhile. Raises ValueError where one is at it."""
    with (root / IN_USE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"--store={root}: a run is using it, and what it has made is in no record yet. Wait for its end."
            ) from None
        yield


def remove(entry: Entry) -> None:
    """Take it out of the store: out of its place at once, then from the disk, so that a kill leaves a leftover."""
    gone = entry.path
    if entry.whole:
        gone = entry.path.with_name(f"{entry.path.name}.{os.getpid()}.tmp")
        os.rename(entry.path, gone)
        entry.path.with_name(f"{entry.path.name}.lock").unlink(missing_ok=True)
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink(missing_ok=True)


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
