"""Fill a table: `cq-table TABLE [--grid] [--plan] [overrides]` runs every row of conf/table/TABLE.yaml, then reports.

Overrides are Hydra's; comma lists span a grid, as in `budget.cache_interval=5,10,20 seed=0,1,2`. With --grid it is the
one that stands in the file, where the overrides do not say otherwise; `--grid model=dit_mini` takes that model's part.
Runs that are recorded already are not run again, so the same command goes on after an interruption. A run that fails
keeps its row and the others go on, unless fail_fast=true says otherwise. With --plan nothing is run: it says what the
rows will take, in hours, memory and disk.
"""

import logging
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cq.cli.commands import FAILED, REFUSED, ended, helped, say
from cq.cli.jobs import Job, jobs_of
from cq.cli.sweep import Cell, Live, Status, summary
from cq.core.store import check_writable
from cq.report.signatures import warn_of
from cq.run.building import build
from cq.run.components import Components
from cq.run.config import PAPER, place
from cq.run.explain import explain
from cq.run.ledger import (
    RunError,
    check_committed,
    execute,
    find,
    known_in_all_tables,
)
from cq.run.origin import Source
from cq.run.own import allowing
from cq.run.record import RunRecord
from cq.run.unread import unread

if TYPE_CHECKING:
    from cq.models.diffusion import ModelComponent

log = logging.getLogger("cq.cli.table")


@dataclass(frozen=True)
class Known:
    """What the record files say of a job. record: its own; answer: that one, or the one of another table's row."""

    record: RunRecord | None
    answer: RunRecord | None

    @property
    def where(self) -> str:
        """In words; nothing where it has to be run."""
        if self.answer is None:
            return ""
        return "recorded" if self.record is not None else f"answered by {self.answer.experiment}"


def recorded(jobs: Sequence[Job]) -> list[Known]:
    """What is known of each job; ValueError, before anything runs, for the first one that cannot work."""
    answers: list[Known] = []
    idle: list[dict[str, str]] = []
    source = Source.now()
    records: dict[Path, list[RunRecord]] = {}
    weights: dict[ModelComponent, str] = {}
    for job in jobs:
        parts = Components.of(job.config)
        path, model = place(job.config, "records"), parts.model
        idle.append(unread(job.config, parts, job.overrides))
        if path not in records:
            records[path] = known_in_all_tables(path, job.config.row.table)
        if model not in weights:
            weights[model] = model.weights_digest()
        asked = ([] if job.config.force else records[path], job.config, weights[model])
        record = find(*asked)
        answers.append(Known(record, record or find(*asked, any_row=True)))
        if record is None:
            check_committed(path, source)
    for key in idle[0] if idle else ():
        if all(key in said for said in idle):  # a table's row that does not read it is nothing to speak of
            log.warning("%s", idle[0][key])
    return answers


@dataclass(frozen=True, kw_only=True)
class Filled:
    """text: the table for a terminal. files: what was written. cells: every run of it, and how it ended.

    ran, failed: how many runs this call made, and how many of them did not end well.
    """

    text: str
    files: tuple[Path, ...]
    cells: tuple[Cell, ...]
    ran: int
    failed: int


def fill(table: str, overrides: Sequence[str], out: Path, *, grid: bool = False) -> Filled:
    """Run what is missing and render the table into `out`.

    A run that fails stays in the table as a failed row, and the others go on; with fail_fast they do not. One that is
    refused when it is its turn, as over a limit, has no row. Raises ValueError where all are.
    """
    from cq.report.render import render_table
    from cq.report.terminal import width_here

    check_writable(out, "out")
    jobs = jobs_of(table, overrides, grid=grid)
    answers = recorded(jobs)
    todo = [job for job, known in zip(jobs, answers, strict=True) if known.record is None]
    new = [known for known in answers if known.answer is None]
    log.info(
        "%d runs, %d of them recorded already, %d more answered in other tables",
        len(jobs), len(jobs) - len(todo), len(todo) - len(new),
    )  # fmt: skip
    planned = [0.0] * len(jobs)
    if new:
        from cq.cli.table_plan import plan_table  # brings torch

        plan = plan_table(jobs, [known.where for known in answers])
        planned = [run.seconds for run in plan.runs]
        for line in plan.told:
            log.info("%s", line)
    cells = [
        Cell(arguments=job.command, status="waiting" if known.record is None else "recorded", planned=seconds)
        for job, known, seconds in zip(jobs, answers, planned, strict=True)
    ]
    records: list[RunRecord] = []
    ran = failed = 0
    with Live(lambda: tuple(cells)):
        for number, (job, known) in enumerate(zip(jobs, answers, strict=True)):
            if known.record is not None:
                records.append(known.record)
                continue
            if failed and job.config.fail_fast:
                cells[number] = replace(cells[number], status="not run")
                continue
            ran += 1
            log.info("run %d of %d: %s, seed %d", ran, len(todo), job.config.row.label, job.config.seed)
            began = time.time()
            cells[number] = replace(cells[number], status="running", began=began)
            status: Status = "done"
            reason = ""
            try:
                records.append(execute(job.config, job.choices, job.overrides, warn=False))
                warn_of(records[-1])
            except RunError as error:
                failed += 1
                status, reason = "failed", str(error)
                same = (each for each in known_in_all_tables(place(job.config, "records"), job.config.row.table))
                records.append(next((each for each in same if each.key == error.record.key), error.record))
                if not error.mendable:
                    traceback.print_exception(error)
                log.error("run %d of %d failed: %s", ran, len(todo), error)
            except ValueError as error:  # as over a limit, which is known when it is its turn
                failed += 1
                status, reason = "refused", explain(error)
                log.error("run %d of %d refused: %s", ran, len(todo), reason)
            cells[number] = replace(cells[number], status=status, reason=reason, seconds=time.time() - began)
    if not records:
        raise ValueError(f"{table}: no run is left. {cells[0].reason}")
    config = jobs[0].config
    path = place(config, "records")
    rendered = render_table(table, records, PAPER, out, thumbnails=path.parent)
    logger = build(config.logger, "logger")
    logger.finish_open(place(config, "tracking"))
    if ran:
        logger.log_table(table, records, rendered.files, place(config, "tracking"))
    return Filled(text=rendered.text(width_here()), files=rendered.files, cells=tuple(cells), ran=ran, failed=failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry; `out=FOLDER` among the arguments names where the report goes (default runs/report).

    Exit status: see `cq.cli.commands.ended`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = sys.argv[1:] if arguments is None else arguments
    if helped(arguments, __doc__):
        return 0
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write(f"usage: {__doc__}")
        return REFUSED
    table, *rest = arguments
    out = [Path(argument.removeprefix("out=")) for argument in rest if argument.startswith("out=")]
    overrides = [
        argument for argument in rest if argument not in ("--grid", "--plan") and not argument.startswith("out=")
    ]
    place = out[-1] if out else Path("runs/report")
    if "--plan" in rest:
        return ended("cq-table", lambda: _plan(table, overrides, grid="--grid" in rest))
    return ended("cq-table", lambda: _fill(table, overrides, place, grid="--grid" in rest))


def _plan(table: str, overrides: Sequence[str], *, grid: bool) -> None:
    from cq.cli.table_plan import plan_table

    jobs = jobs_of(table, allowing(overrides), grid=grid)
    sys.stdout.write(f"{plan_table(jobs, [known.where for known in recorded(jobs)])}\n")


def _fill(table: str, overrides: Sequence[str], out: Path, *, grid: bool) -> int:
    from cq.report.terminal import written

    filled = fill(table, allowing(overrides), out, grid=grid)
    sys.stdout.write("\n".join([filled.text, written(filled.files), ""]))
    if lines := summary(filled.cells):
        say("cq-table", "\n".join(lines))
    return FAILED if filled.failed else 0


if __name__ == "__main__":
    sys.exit(main())
