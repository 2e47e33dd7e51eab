"""Stage results by the digest of what produced them; the only module that knows the layout on disk.

<root>/<stage>/<digest>/            a finished artefact: artifact.json, tensors.safetensors, key.json, seconds.json
<root>/<stage>/<digest>.partial/    shards of an unfinished one (cq.core.shards); a later run goes on from them
<root>/<stage>/<digest>.<pid>.tmp/  an artefact being written; renamed when it is complete
<root>/<stage>/<digest>.<run>.partial/  shards of a run that makes all of its stages again
<root>/<stage>/<digest>.old/        what such a run is about to replace; put back where it was killed in between
<root>/again_<run>                  which stages that run has made; removed when the run has ended well
<root>/<stage>/<digest>.lock        empty; held while the artefact is made, so that nobody makes it twice
<root>/in_use.lock                  empty; held, by any number of them, from a run's first artefact to its end

`cq.core.inventory` lists it, and takes out of it what nobody needs.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cq.core.checksum import digest_of
from cq.core.failures import writing
from cq.core.processes import Processes, here

if TYPE_CHECKING:  # brings torch, which a check of the folders does not need
    from cq.core.artifacts import Artifact

log = logging.getLogger(__name__)

A = TypeVar("A", bound="Artifact")
IN_USE = "in_use.lock"
AGAIN = "the stage is computed again on the next run."


class Store:
    """Artefacts of all runs under one folder. Safe against kills and against two runs at once.

    processes: those that share a run. The main one holds the locks and publishes for all of them.
    again: the name of a run that makes every stage anew, whatever is there; what was there stays until its successor is
    complete. Killed or failed, it goes on under the same name; empty for a run that takes what it finds.
    """

    def __init__(self, root: Path, processes: Processes | None = None, *, again: str = "") -> None:
        self.root = root
        self._again = again
        self._remade = root / f"again_{again}"
        self.processes = here() if processes is None else processes
        self.seconds: dict[str, float] = {}  # stage to seconds, without those of the stages inside it
        self.digests: dict[str, str] = {}  # stage to the digest of its artefact
        self.folders: dict[str, str] = {}  # stage to its folder below the root
        # Stage to seconds of making its artefact, by whichever run made it; None where that was not kept whole.
        self.made: dict[str, float | None] = {}
        # Told of every stage that begins, and how and in how many seconds it came to its end.
        self.on_stage: Callable[[str, str, float | None], None] = lambda stage, how, seconds: None
        self._held: dict[Path, tuple[Artifact, dict[str, float | None]]] = {}
        self._asked: dict[str, float | None] = {}  # as `made`, of what the stage that is being made asked for
        self._nested = 0.0
        self._in_use = False

    def get(self, stage: str, key: Mapping[str, Any], kind: type[A], make: Callable[[Path], A]) -> A:
        """The artefact of `stage` for `key`: loaded if it is there, else made and written at once.

        key: JSON of everything that determines the result. make: receives a folder for resumable shards, which
        survives a kill and is removed when the artefact is complete. Raises ValueError for a damaged artefact.
        Of several processes the main one makes it, alone, and the others read it.
        """
        folder = self.folder(stage, key, kind)
        self.folders[stage] = str(folder.relative_to(self.root))
        if folder in self._held:
            held, made = self._held[folder]
            assert isinstance(held, kind)
            self._asked |= made
            return held
        self._use()
        self.on_stage(stage, "begun", None)
        with self.timed(stage), self.processes.step():
            if self.processes.is_main:
                with self.processes.alone():
                    artifact, verb, made = self._found_or_made(stage, folder, key, kind, make)
        if not self.processes.is_main:
            artifact, verb, made = kind.load(folder), "read", {}
        self.digests[stage] = artifact.digest
        self._held[folder] = (artifact, made)
        self.made |= made
        self._asked |= made
        log.info("%s %s: %.1f s, %s", stage, verb, self.seconds[stage], artifact.digest[:12])
        self.on_stage(stage, verb, self.seconds[stage])
        return artifact

    def share(self, stage: str, key: Mapping[str, Any], kind: type[A], work: Callable[[Path], object]) -> None:
        """Where several processes share the run and the artefact is not there: let each do its part of the shards.

        work: receives the folder of the shards; it is called in every process, and may use other stages. `get` then
        finds all shards there. For a process that is alone nothing is done: `get` makes what is missing.
        """
        folder = self.folder(stage, key, kind)
        if self.processes.apart or folder in self._held:
            return
        partial = self._partial(folder)
        self._use()
        self.on_stage(stage, "begun", None)
        with self.timed(stage), ExitStack() as held, self.processes.step():  # the lock goes when all are through
            if self.processes.is_main:
                folder.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder.with_suffix(".lock")))
                if not self._is_there(folder):
                    partial.mkdir(exist_ok=True)
            if self.processes.told(not self._is_there(folder)):
                work(partial)

    def _use(self) -> None:
        """Until this object is gone, nobody takes anything out of the store: our record will name it."""
        if not self._in_use:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
            weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._in_use = True

    def ended_well(self) -> None:
        """The run is recorded: one that made its stages again has nothing to go on with."""
        if self._again and self.processes.is_main:
            self._remade.unlink(missing_ok=True)

    def _is_there(self, folder: Path) -> bool:
        """Whether the artefact may be taken: a run that makes all anew takes what it made itself."""
        if not self._again:
            return folder.exists()
        made = self._remade.read_text().splitlines() if self._remade.exists() else []
        return folder.exists() and f"{folder.parent.name}/{folder.name}" in made

    def _partial(self, folder: Path) -> Path:
        return folder.with_suffix(f".{self._again}.partial" if self._again else ".partial")

    def folder(self, stage: str, key: Mapping[str, Any], kind: type[A]) -> Path:
        """Where the artefact of `stage` for `key` lies, or will."""
        return self.root / stage / digest_of({"stage": stage, "schema": kind.schema, "key": dict(key)})[:20]

    def _found_or_made(
        self, stage: str, folder: Path, key: Mapping[str, Any], kind: type[A], make: Callable[[Path], A]
    ) -> tuple[A, str, dict[str, float | None]]:
        description = json.dumps(key, indent=1, sort_keys=True) + "\n"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            partial = self._partial(folder)
            _put_back(folder)
            for left_over in folder.parent.glob(f"{folder.name}.*.tmp"):
                shutil.rmtree(left_over)  # its writer held this lock and is gone
            if self._is_there(folder):
                artifact = kind.load(folder)
                _check_key(folder, description)
                made = {stage: None, **_read_seconds(folder)}
                verb = "found"
            else:
                partial.mkdir(exist_ok=True)
                resumed = any(partial.iterdir())  # how long the attempts before took, nobody was left to say
                began, outer, self._asked = time.monotonic(), self._asked, {}
                try:
                    artifact = make(partial)
                finally:
                    made, self._asked = self._asked, outer
                made[stage] = None if resumed else time.monotonic() - began - self._nested
                self._publish(artifact, folder, description, made)
                verb = "done"
            for unfinished in folder.parent.glob(f"{folder.name}.*partial" if self._again else partial.name):
                shutil.rmtree(unfinished)
        return artifact, verb, made

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of the block as `stage`'s, less those of the timed blocks inside it."""
        started, outer, self._nested = time.monotonic(), self._nested, 0.0
        yield
        elapsed = time.monotonic() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed - self._nested
        self._nested = outer + elapsed

    def _publish(self, artifact: "Artifact", folder: Path, description: str, made: Mapping[str, float | None]) -> None:
        temporary = folder.with_suffix(f".{os.getpid()}.tmp")
        temporary.mkdir()
        try:
            artifact.save(temporary)
            with writing(temporary):
                (temporary / "key.json").write_text(description)
                (temporary / "seconds.json").write_text(_seconds_document(made))
                for path in (*temporary.iterdir(), temporary):
                    _force_to_disk(path)
            if folder.exists():
                os.rename(folder, folder.with_suffix(".old"))
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk would stay full
            raise
        _force_to_disk(folder.parent)
        _put_back(folder)
        if self._again:
            with self._remade.open("a") as file:
                file.write(f"{folder.parent.name}/{folder.name}\n")


def _put_back(folder: Path) -> None:
    """What was to be replaced goes where its successor is there, and comes back where it is not."""
    old = folder.with_suffix(".old")
    if old.exists() and folder.exists():
        shutil.rmtree(old)
    elif old.exists():
        os.rename(old, folder)


def check_writable(folder: Path, key: str, num_bytes: int = 0) -> None:
    """Raise ValueError, before anything expensive, where `num_bytes` cannot be written into `folder`.

    key: the configuration key that names the folder. The folder is made where it is missing.
    """
    remedy = f"Choose another place with {key}=..."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # has no name where the system allows: a kill leaves nothing
            probe.write(b"cq")
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = "a file stands in its place" if isinstance(error, FileExistsError) else error.strerror
        raise ValueError(f"{key}={folder}: cannot be written ({reason}). {remedy}") from error
    if free < num_bytes:
        raise ValueError(
            f"{key}={folder}: {free / 2**20:.0f} MiB are free, this run writes about {num_bytes / 2**20:.0f} MiB. "
            f"Make room. {remedy}"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the operating system drops it when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another run is at it; waiting for its result", path.with_suffix(""))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. A kill may leave `path`.<pid>.tmp beside it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk would stay full
        raise


def _check_key(folder: Path, description: str) -> None:
    file = folder / "key.json"
    if not file.is_file() or file.read_text(errors="replace") != description:
        raise ValueError(
            f"{file}: does not say what the artefact beside it was made from; it was changed or damaged. "
            f"Delete {folder}; {AGAIN}"
        )


def _seconds_document(made: Mapping[str, float | None]) -> str:
    return json.dumps({"seconds": dict(made), "digest": digest_of(dict(made))}, indent=1) + "\n"


def _read_seconds(folder: Path) -> dict[str, float | None]:
    """Stage to seconds of making this artefact and what it asked for; {} where it was made before they were kept."""
    file = folder / "seconds.json"
    if not file.exists():
        return {}
    try:
        text = file.read_text()
        made: dict[str, float | None] = json.loads(text)["seconds"]
        intact = _seconds_document(made) == text
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}). Delete {folder}; {AGAIN}") from error
    if not intact:
        raise ValueError(f"{file}: was changed or damaged after it was written. Delete {folder}; {AGAIN}")
    return made


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
