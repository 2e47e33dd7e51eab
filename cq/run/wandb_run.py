"""One run of W&B's: how it is begun, what it is told while it goes, and what it holds in the end."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cq.run.labels import run_group, run_name, run_settings, run_tags
from cq.run.record import RunRecord

ONLINE_SECONDS = 15.0  # to reach W&B's server, once a process; then its runs are logged offline
FINISH_SECONDS = 60.0  # to upload what is left; what is not uploaded then stays in the folder
PROGRESS_SECONDS = 5.0  # at least between two entries of how far the drawing is

log = logging.getLogger(__name__)

_unreachable: list[str] = []  # why this process gave up going online; empty while it has not


class WandbRun:
    """What W&B is told of a run (`cq.run.tracking.RunLog`). A failure of its is a warning, and then it is told no more.

    begin: returns W&B's own run. pictures: where the thumbnails of the record are. noted: told of the record first.
    """

    def __init__(
        self,
        begin: Callable[[], Any],
        pictures: Path = Path(),
        noted: Callable[[RunRecord], None] = lambda record: None,
    ) -> None:
        self._pictures, self._noted = pictures, noted
        self._run: Any = None
        self._began: dict[str, float] = {}  # stage to when its drawing began
        self._said = 0.0
        try:
            self._run = begin()
        except Exception as error:  # of its settings, its service, its server
            warn(error)

    def stage(self, name: str, how: str, seconds: float | None) -> None:
        """See `RunLog`."""
        self._log({f"stage/{name}": how, **({} if seconds is None else {f"seconds/{name}": seconds})})

    def progress(self, name: str, images: float, of: int) -> None:
        """See `RunLog`; every few seconds, and at the end."""
        now = time.monotonic()
        began = self._began.setdefault(name, now)
        if images and (images == of or now - max(began, self._said) >= PROGRESS_SECONDS):
            self._said = now
            rate = images / max(now - began, 1e-9)
            self._log({f"{name}/images": images, f"{name}/of": of, f"{name}/images_per_second": rate})

    def scores(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """See `RunLog`."""
        self._log({name: score["value"] for name, score in found.items()})

    def finish(self, record: RunRecord) -> None:
        """See `RunLog`."""
        self._noted(record)
        self.end(partial(fill_run, record=record, thumbnails=self._pictures / record.thumbnails))

    def stop(self, status: str, reason: str) -> None:
        """It does not end well."""
        self.end(lambda run: run.summary.update({"status": status, "reason": reason}), exit_code=1)

    def end(self, fill: Callable[[Any], None], *, exit_code: int = 0) -> None:
        """Fill in what is left."""
        run, self._run = self._run, None
        if run is not None:
            try:
                try:
                    fill(run)
                finally:
                    run.finish(exit_code=exit_code)
            except Exception as error:
                warn(error)

    def _log(self, numbers: Mapping[str, Any]) -> None:
        if self._run is not None:
            try:
                self._run.log(dict(numbers))
            except Exception as error:  # a run of hours does not end by it
                self._run = None
                warn(error)


def warn(error: Exception) -> None:
    """Say that W&B lacks something."""
    log.warning("W&B did not take this run (%s); nothing is lost, the record file has all of it", error)


def start(*, project: str, mode: Any, **options: Any) -> Any:
    """W&B's run. mode: online or offline; online it is offline where the server cannot be reached."""
    import wandb

    settings = wandb.Settings(init_timeout=ONLINE_SECONDS, silent=True, console="off")
    later = {  # not in older versions
        "finish_timeout": FINISH_SECONDS,
        "x_disable_stats": True,  # its looks at the machine would be in what is measured meanwhile
    }
    for name in later.keys() & wandb.Settings.model_fields.keys():
        setattr(settings, name, later[name])
    options |= {"project": project, "settings": settings}
    if not os.environ.get("WANDB_MODE", "set"):
        del os.environ["WANDB_MODE"]  # W&B takes an empty one for a wrong one
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


def options_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Name, group, tags and configuration. asked: the fields of a record that say what was asked."""
    return {
        "name": run_name(asked), "group": run_group(asked), "tags": run_tags(asked), "job_type": "run",
        "config": {**run_settings(asked), "experiment": asked["experiment"], "resolved": dict(asked["config"])},
    }  # fmt: skip


def fill_run(run: Any, record: RunRecord, thumbnails: Path) -> None:
    """Scores, costs, curves and first images. thumbnails: a PNG of these."""
    import wandb

    run.summary.update({name: score["value"] for name, score in record.scores.items()})
    run.summary.update({f"counted/{key}": value for key, value in record.counted.items()})
    run.summary.update({f"measured/{key}": value for key, value in (record.measured or {}).items()})
    run.summary.update({"commit": record.commit, "images_digest": record.images_digest})
    run.summary.update({"status": record.status, **({"reason": record.note} if record.note else {})})
    curves = {f"by_call/{name}": score["curve"] for name, score in record.scores.items() if score["curve"]}
    for call in range(max(map(len, curves.values()), default=0)):
        # one entry a call for all curves: W&B drops what comes for an earlier step
        run.log({"call": call, **{name: curve[call] for name, curve in curves.items() if call < len(curve)}})
    columns = ["metric", "value", "low", "high", "better", "fingerprint"]
    rows = [[name, *(score[key] for key in columns[1:])] for name, score in record.scores.items()]
    kept = thumbnails.is_file()  # that of a question which was answered before may not be
    images = {"images": wandb.Image(str(thumbnails))} if kept else {}
    run.log({"scores": wandb.Table(columns=columns, data=rows), **images})


def fill_table(run: Any, files: list[Path]) -> None:
    """A rendered table and its figures. files: those that are PNG or CSV are logged, by name."""
    import pandas as pd
    import wandb

    for path in files:
        if path.suffix == ".png":
            run.log({path.stem: wandb.Image(str(path))})
        elif path.suffix == ".csv":
            run.log({path.stem: wandb.Table(dataframe=pd.read_csv(path, dtype=str).fillna(""))})
