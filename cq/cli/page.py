"""`cq-report page WHAT...`: pages of HTML that hold all they show, of a sweep and of single runs.

WHAT is a TABLE or a record file, for all their cells; or a RUN, by its number, digest, label, or words that apply to
it, such as 'dps ptq N=5 seed=0'.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cq.cli.report import found_here
from cq.cli.selection import REPORT, add_records
from cq.core.store import write_atomically
from cq.report.axes import axes_of, name_of
from cq.report.build import build_tables
from cq.report.html import LARGEST
from cq.report.kept import kept
from cq.report.paper import read_paper
from cq.report.pick import Run, matching, runs_in
from cq.report.run_page import run_page
from cq.report.sweep_page import sweep_page
from cq.report.tables import Row
from cq.run.config import PAPER
from cq.run.record import RunRecord, latest


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """Write the pages, and say which. Raises ValueError for a WHAT that names nothing here."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for what in options.what:
        for path in _pages(what, options):
            yield f"wrote {path}"


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="cq-report page", description=__doc__)
    made.add_argument("what", nargs="+", metavar="WHAT", help="a TABLE, a record file, or a RUN")
    add_records(made)
    made.add_argument("--out", type=Path, default=REPORT, metavar="FOLDER", help=f"default: {REPORT}")
    made.add_argument("--no-layers", action="store_true", help="do not diagnose layers, which runs the network")
    made.add_argument("--each", action="store_true", help="with a table or a file: also a page of every run in it")
    return made


def _pages(what: str, options: argparse.Namespace) -> Iterator[Path]:
    """Runs first: a sweep's page links to the pages that are there."""
    named = Path(what)
    runs = runs_in([named] if named.is_file() else options.records or found_here([what]))
    tables = {run.record.table for run in runs}
    names = sorted(tables) if named.is_file() else [what] if what in tables else []
    out = options.out
    newest = {id(record) for record in latest(run.record for run in runs)}
    of_names = [run for run in runs if run.record.table in names and id(run.record) in newest]
    for run in (of_names if options.each else []) if names else matching(runs, what):
        found = kept(run, layers=not options.no_layers)
        yield _write(out / file_of(run.record), run_page(run, name_among(run, runs), found, _records(runs)))
    for name in names:
        yield from _sweep(name, runs, out)


def _sweep(name: str, runs: Sequence[Run], out: Path) -> Iterator[Path]:
    def own(row: Row) -> str:
        """The page of its first seed, where there is one beside this page."""
        found = [file_of(record) for record in row.records if (out / file_of(record)).is_file()]
        return found[0] if found else ""

    for table in build_tables(name, _records(runs), read_paper(PAPER)):
        yield _write(out / f"{table.name}.html", sweep_page(table, own))


def file_of(record: RunRecord) -> str:
    """The name of a run's page."""
    return f"{record.table}_{record.config_digest[:12]}.html"


def name_among(run: Run, runs: Sequence[Run]) -> str:
    """Its label, or for one of a grid what tells it from the others."""
    alike = [other.record for other in runs if other.record.experiment == run.record.experiment]
    label, name = run.record.label, name_of(run.record, axes_of(alike)) if len(alike) > 1 else ""
    return f"{label}: {name}" if name and re.search(r"\w", name) else label


def _records(runs: Sequence[Run]) -> list[RunRecord]:
    return [
        replace(run.record, thumbnails=str(run.file.parent / run.record.thumbnails)) if run.record.thumbnails
        else run.record
        for run in runs
    ]  # fmt: skip


def _write(path: Path, page: str) -> Path:
    content = page.encode()
    if len(content) > LARGEST:
        raise ValueError(f"{path}: the page would have {len(content) / 2**20:.1f} MiB, more than {LARGEST >> 20}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
