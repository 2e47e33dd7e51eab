"""The W&B sink: offline by default, online by the usual variable, and never the only place of a result.

A run is there from its beginning. What W&B is to get is written down first, in FOLDER/open_ID.json, a JSON object a
line, which goes when W&B has it; whoever is at it holds its lock. The ID of a run comes from its question: what a kill
left of it is replaced when the same command asks again. What had come to its end, any next command logs anew.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

from cq.core.checksum import digest_of
from cq.run.labels import run_name, run_settings
from cq.run.record import RunRecord
from cq.run.wandb_run import WandbRun, fill_table, options_of, start, warn

MODES = {  # what W&B itself takes its variable to be
    "online": "online", "offline": "offline", "disabled": "disabled", "dryrun": "offline", "run": "online",
    "shared": "online",
}  # fmt: skip

log = logging.getLogger(__name__)


class RunLog(Protocol):
    """What is said of a run while it goes."""

    def stage(self, name: str, how: str, seconds: float | None) -> None:
        """It has "begun", or is "done" or was "found" in the store, in so many seconds."""

    def progress(self, name: str, images: float, of: int) -> None:
        """So many images of those that are to be drawn; parts of an image are its calls. Told at every call."""

    def scores(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Those of one metric, as a record holds them."""

    def finish(self, record: RunRecord) -> None:
        """It has ended well."""


@runtime_checkable
class Logger(Protocol):
    """Where runs and tables are shown beside the record file. folder: for what is written here."""

    def finish_open(self, folder: Path, answered: RunRecord | None = None) -> None:
        """Finish what commands that were killed have left open; `answered` also where its end was not written down."""

    def run(self, asked: Mapping[str, Any], pictures: Path, folder: Path) -> AbstractContextManager[RunLog]:
        """A run that begins. It has failed with what the block raises; interrupted, it can go on.

        asked: the fields of a record that say what is asked. pictures: where the thumbnails of a record are.
        """

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """A rendered table with its figures."""


class NoLog:
    """Says nothing."""

    def stage(self, name: str, how: str, seconds: float | None) -> None:
        """Nothing."""

    def progress(self, name: str, images: float, of: int) -> None:
        """Nothing."""

    def scores(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Nothing."""

    def finish(self, record: RunRecord) -> None:
        """Nothing."""


NO_LOG: RunLog = NoLog()


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """Logs nothing."""

    def finish_open(self, folder: Path, answered: RunRecord | None = None) -> None:
        """Nothing."""

    @contextmanager
    def run(self, asked: Mapping[str, Any], pictures: Path, folder: Path) -> Iterator[RunLog]:
        """Nothing."""
        yield NO_LOG

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class WandbLogger:
    """project: W&B's. mode: online, offline, or None for the WANDB_MODE variable and else offline."""

    project: str
    mode: Literal["online", "offline"] | None

    def __post_init__(self) -> None:
        if self._mode not in MODES:
            raise ValueError(
                f"logger.mode=null and WANDB_MODE={self._mode!r}: must be one of {', '.join(MODES)}. Mend the variable."
            )

    @contextmanager
    def run(self, asked: Mapping[str, Any], pictures: Path, folder: Path) -> Iterator[RunLog]:
        """Choices by name and configuration at once, then stages, images and scores as they come, costs in the end."""
        path = _path(asked, folder)
        held = _begun(path, {"asked": dict(asked), "pictures": str(pictures.absolute())})
        if held is None:
            yield NO_LOG
            return
        with held:

            def noted(record: RunRecord) -> None:
                with suppress(OSError):  # it is for a kill between here and W&B's end
                    _note(held, {"record": record.to_json()})

            live = WandbRun(self._start(path, options_of(asked)), pictures, noted)
            try:
                yield live
            except Exception as error:
                live.stop("failed", str(error))
                path.unlink(missing_ok=True)
                raise
            except BaseException:  # the open file stands, for the same command goes on
                live.stop("stopped", "interrupted")
                raise
            path.unlink(missing_ok=True)

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """A rendered table with its figures. files: those that are PNG or CSV are logged, by name."""
        config = {run_name(asked): run_settings(asked) for asked in map(vars, records)}
        entry = {"table": name, "config": config, "files": [str(path.absolute()) for path in files]}
        path = folder / f"open_{digest_of(entry)[:12]}.json"
        if held := _begun(path, entry):
            with held:
                self._finish(path, entry)

    def finish_open(self, folder: Path, answered: RunRecord | None = None) -> None:
        """Log what commands that were killed have left open. Of a run that had not ended, its own command makes all."""
        mine = None if answered is None else _path(vars(answered), folder)
        for path in sorted(folder.glob("open_*.json")):
            held = _locked(path)
            if held is None:
                continue  # its command is alive and at it
            with held:
                entry = _read(held)
                if answered is not None and path == mine:
                    entry["record"] = answered.to_json()
                if "record" in entry or "table" in entry:
                    log.info("%s: was left open by a command that was stopped; W&B gets it now", path)
                    self._finish(path, entry)
                elif "asked" not in entry:  # killed before a line was whole
                    path.unlink(missing_ok=True)

    @property
    def _mode(self) -> str:
        found = self.mode or os.environ.get("WANDB_MODE") or "offline"
        return MODES.get(found, found)

    def _start(self, path: Path, options: Mapping[str, Any]) -> Callable[[], Any]:
        """How W&B's run begins, in the place of what was begun under its ID. path: of the open file."""
        name = path.stem.removeprefix("open_")

        def begin() -> Any:
            for begun in path.parent.glob(f"wandb/*-{name}*"):
                shutil.rmtree(begun, ignore_errors=True)  # the service of a process just killed may still write there
            return start(
                project=self.project, mode=self._mode, dir=str(path.parent), id=name, resume="allow", **options
            )

        return begin

    def _finish(self, path: Path, entry: Mapping[str, Any]) -> None:
        """Write one whole W&B run."""
        if "table" in entry:
            options = {"name": entry["table"], "group": entry["table"], "config": entry["config"], "job_type": "table"}
            WandbRun(self._start(path, options)).end(partial(fill_table, files=[Path(file) for file in entry["files"]]))
        else:
            try:
                record = RunRecord.from_json(entry["record"])
            except ValueError as error:  # of another version
                warn(error)
            else:
                WandbRun(self._start(path, options_of(vars(record))), Path(entry.get("pictures", ""))).finish(record)
        path.unlink(missing_ok=True)


def _path(asked: Mapping[str, Any], folder: Path) -> Path:
    """The open file of a question: equal where `RunRecord.key` is."""
    return folder / f"open_{digest_of([asked[name] for name in ('experiment', 'seed', 'config_digest')])[:12]}.json"


def _begun(path: Path, entry: Mapping[str, Any]) -> IO[str] | None:
    """The open file with its first line; None where another process has it, or where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(path)
        if held is not None:
            held.truncate(0)
            _note(held, entry)
    except OSError as error:
        warn(error)
        return None
    return held


def _locked(path: Path) -> IO[str] | None:
    """The file, with its lock until it is closed; None where another process holds it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _note(held: IO[str], entry: Mapping[str, Any]) -> None:
    held.write(json.dumps(entry, default=dict) + "\n")
    held.flush()
    os.fsync(held.fileno())


def _read(held: IO[str]) -> dict[str, Any]:
    """All lines as one object; one that a kill has torn is none."""
    held.seek(0)
    entry: dict[str, Any] = {}
    for line in held:
        with suppress(ValueError):
            entry |= json.loads(line)
    return entry
