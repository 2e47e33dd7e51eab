"""The W&B sink: offline by default, online by the usual variable, and never the only place of a result."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cq.record import RunRecord

ONLINE_SECONDS = 15.0  # to reach W&B's server, once a process; then its runs are logged offline
FINISH_SECONDS = 60.0  # to upload what is left; what is not uploaded then stays in the folder
MODES = {  # what W&B itself takes its variable to be
    "online": "online", "offline": "offline", "disabled": "disabled", "dryrun": "offline", "run": "online",
    "shared": "online",
}  # fmt: skip

log = logging.getLogger(__name__)

_unreachable: list[str] = []  # why this process gave up going online; empty while it has not


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """Logs nothing."""

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
        """Resolved config, scores, costs and the first images of one run, in the group of its table."""

        def fill(run: Any) -> None:
            import wandb

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
            run.log({"scores": wandb.Table(columns=columns, data=rows), "images": wandb.Image(str(thumbnails))})

        self._log(fill, name=f"{record.experiment} seed {record.seed}", group=record.table, config=record.config,
                  folder=folder)  # fmt: skip

    def log_table(self, name: str, records: list[RunRecord], files: tuple[Path, ...], folder: Path) -> None:
        """A rendered table with its figures. files: those that are PNG or CSV are logged, by name."""

        def fill(run: Any) -> None:
            import pandas as pd
            import wandb

            for path in files:
                if path.suffix == ".png":
                    run.log({path.stem: wandb.Image(str(path))})
                elif path.suffix == ".csv":
                    run.log({path.stem: wandb.Table(dataframe=pd.read_csv(path, dtype=str).fillna(""))})

        config = {f"{record.experiment} seed {record.seed}": dict(record.config) for record in records}
        self._log(fill, name=name, group=name, config=config, folder=folder)

    @property
    def _mode(self) -> str:
        found = self.mode or os.environ.get("WANDB_MODE") or "offline"
        return MODES.get(found, found)

    def _log(self, fill: Callable[[Any], None], *, folder: Path, **options: Any) -> None:
        """Write one W&B run. A failure of W&B's is a warning: the record and the report have everything."""
        import wandb

        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = self._start(dir=str(folder), **options)
            try:
                fill(run)
            finally:
                run.finish()
        except (wandb.errors.Error, ValueError, OSError) as error:  # a ValueError: of its other variables
            log.warning("W&B did not take this run (%s); nothing is lost, the record file has all of it", error)

    def _start(self, **options: Any) -> Any:
        import wandb

        settings = wandb.Settings(init_timeout=ONLINE_SECONDS, silent=True, console="off")
        if "finish_timeout" in wandb.Settings.model_fields:  # not in older versions
            settings.finish_timeout = FINISH_SECONDS
        options |= {"project": self.project, "settings": settings}
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
