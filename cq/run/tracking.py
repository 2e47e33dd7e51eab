"""The W&B sink: offline by default, online by the usual variable, and never the only place of a result.

What is to be logged is written down first, in FOLDER/open_NAME.json, which goes when W&B has it. What a kill left open,
the next command logs anew, under the same id and in the place of what was begun.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from cq.core.store import write_atomically
from cq.run.labels import run_group, run_name, run_settings, run_tags
from cq.run.record import RunRecord

ONLINE_SECONDS = 15.0  # to reach W&B's server, once a process; then its runs are logged offline
FINISH_SECONDS = 60.0  # to upload what is left; what is not uploaded then stays in the folder
MODES = {  # what W&B itself takes its variable to be
    "online": "online", "offline": "offline", "disabled": "disabled", "dryrun": "offline", "run": "online",
    "shared": "online",
}  # fmt: skip

log = logging.getLogger(__name__)

_unreachable: list[str] = []  # why this process gave up going online; empty while it has not


@runtime_checkable
class Logger(Protocol):
    """Where runs and tables are shown beside the record file."""

    def finish_open(self, folder: Path) -> None:
        """Finish what commands that were killed have left open in `folder`."""

    def log_run(self, record: RunRecord, thumbnails: Path, folder: Path) -> None:
        """One run. thumbnails: a PNG of its first images. folder: for what is written here."""

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """A rendered table with its figures."""


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """Logs nothing."""

    def finish_open(self, folder: Path) -> None:
        """Nothing."""

    def log_run(self, record: RunRecord, thumbnails: Path, folder: Path) -> None:
        """Nothing."""

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

    def log_run(self, record: RunRecord, thumbnails: Path, folder: Path) -> None:
        """Choices by name, configuration, scores, costs and first images of one run, in the group of its table."""
        self._log({"record": record.to_json(), "thumbnails": str(thumbnails.absolute())}, folder)

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """A rendered table with its figures. files: those that are PNG or CSV are logged, by name."""
        config = {run_name(asked): run_settings(asked) for asked in map(vars, records)}
        self._log({"table": name, "config": config, "files": [str(path.absolute()) for path in files]}, folder)

    def finish_open(self, folder: Path) -> None:
        """Log what commands that were killed have left open."""
        for path in sorted(folder.glob("open_*.json")):
            log.info("%s: was left open by a command that was stopped; W&B gets it now", path)
            self._finish(path)

    def _log(self, entry: Mapping[str, Any], folder: Path) -> None:
        text = json.dumps(entry, default=dict)
        path = folder / f"open_{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
        except OSError as error:
            _warn(error)
        else:
            self._finish(path)

    @property
    def _mode(self) -> str:
        found = self.mode or os.environ.get("WANDB_MODE") or "offline"
        return MODES.get(found, found)

    def _finish(self, path: Path) -> None:
        """Write one W&B run. A failure of W&B's is a warning: the record and the report have everything."""
        import wandb

        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # its command is alive and at it
            try:
                entry = json.load(file)
                name = path.stem.removeprefix("open_")
                for begun in path.parent.glob(f"wandb/*-{name}*"):
                    shutil.rmtree(begun)
                run = self._start(dir=str(path.parent), id=name, resume="allow", **_options(entry))
                try:
                    _fill_run(run, entry) if "record" in entry else _fill_table(run, entry)
                finally:
                    run.finish()
            except (wandb.errors.Error, ValueError, OSError) as error:  # a ValueError: of its other variables
                _warn(error)
            path.unlink(missing_ok=True)

    def _start(self, **options: Any) -> Any:
        import wandb

        settings = wandb.Settings(init_timeout=ONLINE_SECONDS, silent=True, console="off")
        if "finish_timeout" in wandb.Settings.model_fields:  # not in older versions
            settings.finish_timeout = FINISH_SECONDS
        options |= {"project": self.project, "settings": settings}
        if not os.environ.get("WANDB_MODE", "set"):
            del os.environ["WANDB_MODE"]  # W&B takes an empty one for a wrong one
        mode: Any = self._mode
        if mode == "online" and not _unreachable:
            try:
                with _no_terminal():
                    return wandb.init(mode="online", **options)
            except (wandb.errors.Error, ValueError, OSError) as error:
                _unreachable.append(str(error).splitlines()[0])
        if mode == "online":
            log.warning(
                "W&B cannot be reached (%s): logged offline under %s; upload later with `wandb sync`",
                _unreachable[0], options["dir"],
            )  # fmt: skip
            mode = "offline"
            options["id"] += "x"  # W&B holds the other one for as long as this process is there
        return wandb.init(mode=mode, **options)


@contextmanager
def _no_terminal() -> Iterator[None]:
    """Without one W&B raises where it would ask for an API key, and a run of hours would wait for the answer."""
    kept = sys.stdin
    with open(os.devnull) as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = kept


def _warn(error: Exception) -> None:
    log.warning("W&B did not take this run (%s); nothing is lost, the record file has all of it", error)


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    if "record" not in entry:
        return {"name": entry["table"], "group": entry["table"], "config": entry["config"], "job_type": "table"}
    asked = vars(RunRecord.from_json(entry["record"]))
    return {
        "name": run_name(asked), "group": run_group(asked), "tags": run_tags(asked), "job_type": "run",
        "config": {**run_settings(asked), "experiment": asked["experiment"], "resolved": dict(asked["config"])},
    }  # fmt: skip


def _fill_run(run: Any, entry: Mapping[str, Any]) -> None:
    import wandb

    record = RunRecord.from_json(entry["record"])
    run.summary.update({name: score["value"] for name, score in record.scores.items()})
    run.summary.update({f"counted/{key}": value for key, value in record.counted.items()})
    run.summary.update({f"measured/{key}": value for key, value in (record.measured or {}).items()})
    run.summary.update({"commit": record.commit, "images_digest": record.images_digest})
    curves = {f"by_call/{name}": score["curve"] for name, score in record.scores.items() if score["curve"]}
    for call in range(max(map(len, curves.values()), default=0)):
        # one entry a call for all curves: W&B drops what comes for an earlier step
        run.log({"call": call, **{name: curve[call] for name, curve in curves.items() if call < len(curve)}})
    columns = ["metric", "value", "low", "high", "better", "fingerprint"]
    rows = [[name, *(score[key] for key in columns[1:])] for name, score in record.scores.items()]
    kept = Path(entry["thumbnails"]).is_file()  # that of a question which was answered before may not be
    images = {"images": wandb.Image(entry["thumbnails"])} if kept else {}
    run.log({"scores": wandb.Table(columns=columns, data=rows), **images})


def _fill_table(run: Any, entry: Mapping[str, Any]) -> None:
    import pandas as pd
    import wandb

    for path in map(Path, entry["files"]):
        if path.suffix == ".png":
            run.log({path.stem: wandb.Image(str(path))})
        elif path.suffix == ".csv":
            run.log({path.stem: wandb.Table(dataframe=pd.read_csv(path, dtype=str).fillna(""))})
