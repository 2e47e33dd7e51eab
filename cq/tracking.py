"""The W&B sink: offline by default, online by the usual variable, and never the only place of a result."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cq.record import RunRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NoLogger:
    """Logs nothing."""

    def log_run(self, record: RunRecord, thumbnails: Path, folder: Path) -> None:
        """Nothing."""

    def log_table(self, name: str, records: list[RunRecord], files: Mapping[str, Path], folder: Path) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class WandbLogger:
    """project: W&B's. mode: online, offline, or None for the WANDB_MODE variable and else offline."""

    project: str
    mode: Literal["online", "offline"] | None

    def log_run(self, record: RunRecord, thumbnails: Path, folder: Path) -> None:
        """Resolved config, scores, costs and the first images of one run, in the group of its table."""
        import wandb

        run = self._start(name=f"{record.experiment} seed {record.seed}", group=record.table, config=record.config,
                          folder=folder)  # fmt: skip
        run.summary.update({name: score["value"] for name, score in record.scores.items()})
        run.summary.update({f"counted/{key}": value for key, value in record.counted.items()})
        run.summary.update({f"measured/{key}": value for key, value in (record.measured or {}).items()})
        for name, score in record.scores.items():
            for call, value in enumerate(score["curve"]):
                run.log({f"by_call/{name}": value, "call": call}, step=call)
        run.log({"images": wandb.Image(str(thumbnails))})
        run.finish()

    def log_table(self, name: str, records: list[RunRecord], files: Mapping[str, Path], folder: Path) -> None:
        """A rendered table with its figures. files: what is logged as images and tables, by name."""
        import pandas as pd
        import wandb

        config = {record.experiment: dict(record.config) for record in records}
        run = self._start(name=name, group=name, config=config, folder=folder)
        for key, path in files.items():
            if path.suffix == ".png":
                run.log({key: wandb.Image(str(path))})
            elif path.suffix == ".csv":
                run.log({key: wandb.Table(dataframe=pd.read_csv(path, dtype=str).fillna(""))})
        run.finish()

    def _start(self, *, name: str, group: str, config: Mapping[str, Any], folder: Path) -> Any:
        import wandb

        mode = self.mode or os.environ.get("WANDB_MODE", "offline")
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {
            "project": self.project, "name": name, "group": group, "config": dict(config), "dir": str(folder),
        }  # fmt: skip
        settings = wandb.Settings(init_timeout=20, silent=True, console="off")
        if mode == "online":
            try:
                return wandb.init(mode="online", settings=settings, **options)
            except wandb.errors.Error as error:
                log.warning("W&B cannot be reached (%s): this run is logged offline under %s; upload it later with "
                            "`wandb sync`.", error, folder)  # fmt: skip
                mode = "offline"
        return wandb.init(mode="offline" if mode == "offline" else "disabled", settings=settings, **options)
