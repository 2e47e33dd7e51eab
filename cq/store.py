"""Stage results by the digest of what produced them; the only module that knows the layout on disk.

<root>/<stage>/<digest>/            a finished artefact: artifact.json, tensors.safetensors, key.json
<root>/<stage>/<digest>.partial/    shards of an unfinished one; a later run goes on from them
<root>/<stage>/<digest>.<pid>.tmp/  an artefact being written; renamed when it is complete
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cq.artifacts import Artifact, digest_of

log = logging.getLogger(__name__)

A = TypeVar("A", bound=Artifact)


class Store:
    """Artefacts of all runs under one folder. Safe against kills and against two runs at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds: dict[str, float] = {}  # stage to seconds, for the stages this object ran or loaded
        self.digests: dict[str, str] = {}  # stage to the digest of its artefact

    def get(self, stage: str, key: Mapping[str, Any], kind: type[A], make: Callable[[Path], A]) -> A:
        """The artefact of `stage` for `key`: loaded if it is there, else made and written at once.

        key: JSON of everything that determines the result. make: receives a folder for resumable shards, which
        survives a kill and is removed when the artefact is complete. Raises ValueError for a damaged artefact.
        """
        digest = digest_of({"stage": stage, "schema": kind.schema, "key": dict(key)})[:20]
        folder = self.root / stage / digest
        started = time.monotonic()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if folder.exists():
                artifact = kind.load(folder)
                verb = "found"
            else:
                for left_over in folder.parent.glob(f"{digest}.*.tmp"):
                    shutil.rmtree(left_over)  # its writer held this lock and is gone
                partial = folder.with_suffix(".partial")
                partial.mkdir(exist_ok=True)
                artifact = make(partial)
                self._publish(artifact, folder, key)
                shutil.rmtree(partial)
                verb = "done"
        self.seconds[stage] = time.monotonic() - started
        self.digests[stage] = artifact.digest
        log.info("%s %s: %.1f s, %s", stage, verb, self.seconds[stage], artifact.digest[:12])
        return artifact

    def _publish(self, artifact: Artifact, folder: Path, key: Mapping[str, Any]) -> None:
        temporary = folder.with_suffix(f".{os.getpid()}.tmp")
        temporary.mkdir()
        artifact.save(temporary)
        (temporary / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True) + "\n")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        os.rename(temporary, folder)

    def check_writable(self, num_bytes: int) -> None:
        """Raise ValueError, before anything expensive, where `num_bytes` cannot be written under the root."""
        remedy = "Choose another folder with paths.store=..."
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe.{os.getpid()}"
            probe.write_bytes(b"cq")
            probe.unlink()
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise ValueError(f"paths.store={self.root}: cannot be written ({error.strerror}). {remedy}") from error
        if free < num_bytes:
            raise ValueError(
                f"paths.store={self.root}: {free / 2**20:.0f} MiB are free, this run writes about "
                f"{num_bytes / 2**20:.0f} MiB. Make room, or: {remedy}"
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the operating system drops it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
