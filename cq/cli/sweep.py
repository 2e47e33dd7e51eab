"""A sweep as it goes: one line says how far its cells are and when they will be done; what ended badly is listed.

`cq -m` runs its cells in this process or, by a launcher, in others: each leaves a file in the sweep's folder, which
the process that started them reads. So the line, `fail_fast` and the summary are the same for every launcher.
"""

import json
import logging
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cq.core.processes import here
from cq.core.store import write_atomically
from cq.run.ledger import DATE
from cq.run.own import said
from cq.run.record import RunRecord

Status = Literal["waiting", "running", "recorded", "done", "failed", "refused", "not run", "left out"]
BAD = ("failed", "refused")
OPEN = ("waiting", "running")
LOOK, SAY = 1.0, 10.0  # seconds between two looks at the cells, and at least between two lines of a log

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep. arguments: with which `cq` runs it alone. recorded: the answer was there before.

    left out: by a search, which looks elsewhere where it is refused. planned: seconds, or None without an estimate.
    began: on the clock of `time.time`. reason: why it ended badly.
    """

    arguments: Sequence[str] = ()
    status: Status = "waiting"
    planned: float | None = None
    began: float = 0.0
    seconds: float = 0.0
    reason: str = ""


def seconds_left(cells: Sequence[Cell], now: float) -> float | None:
    """Until the last cell ends, from the seconds of those that are done; before, from the plan; None without either.

    As many will run side by side as do now. Cells are worth their planned seconds, or each the same. A plan weighs as
    much as one cell of the mean that kept to it, so that a first small cell that was late says little of the others.
    """
    asked = [cell for cell in cells if cell.status != "recorded"]
    planned = all(cell.planned is not None for cell in asked)

    def worth(cell: Cell) -> float:
        return cell.planned or 0.0 if planned else 1.0

    done = [cell for cell in cells if cell.status == "done"]
    measured, of = sum(cell.seconds for cell in done), sum(map(worth, done))
    if not of and not planned:
        return None
    kept = sum(map(worth, asked)) / len(asked) if planned and asked else 0.0
    pace = (measured + kept) / (of + kept) if of + kept else 1.0
    running = [cell for cell in cells if cell.status == "running"]
    left = sum(pace * worth(cell) for cell in cells if cell.status == "waiting")
    left += sum(max(0.0, pace * worth(cell) - (now - cell.began)) for cell in running)
    return left / max(1, len(running))


def progress(cells: Sequence[Cell], now: float) -> str:
    """How far a sweep is, in one line."""
    count = Counter(cell.status for cell in cells)
    parts = [f"{count['done'] + count['recorded']} of {len(cells)} cells done"]
    parts[0] += f" ({count['recorded']} recorded before)" if count["recorded"] else ""
    others: tuple[Status, ...] = ("failed", "refused", "not run", "left out", "running")
    parts += [f"{count[status]} {status}" for status in others if count[status]]
    left = seconds_left(cells, now)
    if left is not None and any(cell.status in OPEN for cell in cells):
        parts[-1] += f"; about {_duration(left)} left, until {time.strftime('%H:%M', time.localtime(now + left))}"
    return f"sweep: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(cells: Sequence[Cell]) -> list[str]:
    """What did not end well, why, and the command that runs it again; nothing where all is well."""
    stopped = [cell for cell in cells if cell.status == "running"]  # its process died
    bad = [cell for cell in cells if cell.status in BAD] + stopped
    idle = [cell for cell in cells if cell.status == "not run"]
    if not bad and not idle:
        return []
    lines = [f"{len(bad)} of {len(cells)} cells did not end well:"]
    for cell in bad:
        status, reason = ("stopped", "its process ended") if cell in stopped else (cell.status, cell.reason)
        lines += [
            f"  {status}: {_name(cell, cells)}: {reason}",
            f"    again: cq {shlex.join([*said(), *cell.arguments])}",
        ]
    if idle:
        lines += [f"{len(idle)} cells were not run, for fail_fast=true:", *(f"  {_name(cell, cells)}" for cell in idle)]
    return [*lines, "The same command runs again what is missing, and nothing else."]


def _name(cell: Cell, cells: Sequence[Cell]) -> str:
    """What this cell asks and not every other one does."""
    common = set.intersection(*(set(each.arguments) for each in cells if each.arguments))
    return " ".join(word for word in cell.arguments if word not in common) or " ".join(cell.arguments)


class Live:
    """Says every now and then how far the cells are: in one line of a terminal, or in lines of the log."""

    def __init__(self, look: Callable[[], Sequence[Cell]]) -> None:
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Live":
        self._thread.start()
        self._stack = ExitStack()
        self._stack.enter_context(_lines_above())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        # Other bars, as that of the images being drawn, stand below this one.
        bar = tqdm(total=1, bar_format="{desc}", leave=False, position=0) if sys.stderr.isatty() else None
        said, ended = time.monotonic(), 0
        while True:
            over = self._over.wait(LOOK)
            cells = self._look()
            now = sum(cell.status not in OPEN for cell in cells)
            if bar is not None:
                bar.set_description_str(progress(cells, time.time()))
            elif now > ended and (over or time.monotonic() - said > SAY):
                log.info("%s", progress(cells, time.time()))
                said, ended = time.monotonic(), now
            if over:
                break
        if bar is not None:
            bar.close()
            log.info("%s", progress(self._look(), time.time()))


@contextmanager
def _lines_above() -> Iterator[None]:
    """What is logged within does not break the line of a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with logging_redirect_tqdm():
        yield


# The cells of `cq -m`


class OwnCell:
    """The cell that this process is at, as a file where the process that started the sweep looks.

    hydra: that section of the job's configuration. Outside of a sweep, and in all but the main one of several processes
    that share a run, it notes nothing.
    """

    def __init__(self, hydra: Any) -> None:
        self._folder = _folder(hydra) if hydra.mode == RunMode.MULTIRUN and here().is_main else None
        self._number = hydra.job.num if self._folder else 0
        self._cell = Cell(arguments=list(hydra.overrides.task), began=time.time())

    def __enter__(self) -> "OwnCell":
        self._note("running")
        self._stack = ExitStack()
        self._stack.enter_context(_lines_above())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.clear()  # Hydra names the next job in its place

    @property
    def others_failed(self) -> bool:
        """Whether a cell of this sweep has failed, or was refused."""
        return self._folder is not None and any(cell.status in BAD for cell in noted(self._folder))

    def answered(self, record: RunRecord) -> None:
        """It ended well. record: the answer, which may be an older one."""
        began = time.strftime(DATE, time.gmtime(self._cell.began))
        self._note("done" if record.date >= began else "recorded")

    def ended(self, status: Status, reason: str = "") -> None:
        """It ended otherwise, or does not begin."""
        if self._folder and reason:
            log.error("%s", reason)
        self._note(status, reason)

    def _note(self, status: Status, reason: str = "") -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            seconds = time.time() - self._cell.began
            cell = replace(self._cell, status=status, seconds=seconds, reason=reason)
            write_atomically(self._folder / f"{self._number:06d}.json", json.dumps(asdict(cell)).encode())


def noted(folder: Path, count: int | None = None) -> list[Cell]:
    """Every cell of a sweep of `count`, or of as many as have begun."""
    found: dict[int, Cell] = {}
    for path in folder.glob("*.json"):
        with suppress(OSError, ValueError):  # of a shared file system, in between
            found[int(path.stem)] = Cell(**json.loads(path.read_text()))
    return [found.get(number, Cell()) for number in range(max(count or 0, *(number + 1 for number in found), 0))]


def _folder(hydra: Any) -> Path:
    return Path(hydra.sweep.dir) / "cells"


class Sweep(Callback):
    """Begins the line when Hydra says that a sweep begins. It travels to a launcher's processes, and holds nothing."""

    running: "tuple[Live, Callable[[], list[Cell]]] | None" = None  # of this process

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if not here().is_main:
            return
        folder, count = _folder(config.hydra), _count(config.hydra)
        for path in folder.glob("*.json"):  # of the same command before
            path.unlink()

        def look() -> list[Cell]:
            return noted(folder, count)

        Sweep.running = Live(look).__enter__(), look

    @classmethod
    def over(cls) -> list[Cell]:
        """End the line; the cells of the sweep that this process started, none where it started none."""
        if cls.running is None:
            return []
        (live, look), cls.running = cls.running, None
        live.__exit__()
        return look()


def _count(hydra: DictConfig) -> int | None:
    """How many cells the sweep will have, where its sweeper says so beforehand."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not hydra.sweeper._target_.endswith(".BasicSweeper"):
        trials = hydra.sweeper.get("n_trials")
        return None if trials is None else int(trials)
    parameters = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*parameters, *hydra.overrides.task])
    return len(BasicSweeper.split_arguments(parsed, None)[0])
