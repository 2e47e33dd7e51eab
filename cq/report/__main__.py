"""`cq-report table5`: write a table and its figures from run records, and print the table."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cq.commands import ended
from cq.record import RunRecord, read
from cq.report.render import render_table
from cq.report.tables import TITLES

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `cq.commands.ended`; 2 where a table cannot be written."""
    parser = argparse.ArgumentParser(prog="cq-report", description="Write tables and figures from run records.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of tables, such as table5")
    parser.add_argument("--all", action="store_true", help="every table that has records")
    parser.add_argument("--records", nargs="+", type=Path, metavar="FILE", help="default: results/runs_*.jsonl")
    parser.add_argument("--paper", type=Path, default=Path("results/paper.csv"), metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="gets tables/ and figures/")
    parser.add_argument("--no-figures", action="store_true", help="write the tables only")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if options.all == bool(options.tables):
        parser.error("name the tables, or give --all (one of the two)")
    return ended("cq-report", lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    records = [record for path in options.records or committed(Path("results")) for record in _read(path)]
    for name in _names(options.tables, records):
        rendered = render_table(name, records, options.paper, options.out, figures=not options.no_figures)
        print(rendered.markdown)
        print("\n".join(f"wrote {path}" for path in rendered.files))


def committed(folder: Path) -> list[Path]:
    """The record files of a results folder, one a table. Raises FileNotFoundError where there is none."""
    found = sorted(folder.glob("runs_*.jsonl"))
    if not found:
        raise FileNotFoundError(f"{folder}/runs_*.jsonl: no such record file. Name one with --records.")
    return found


def _read(path: Path) -> list[RunRecord]:
    """The records of a file, with thumbnail paths made independent of where the command is run."""
    return [
        replace(record, thumbnails=str(path.parent / record.thumbnails)) if record.thumbnails else record
        for record in read(path)
    ]


def _names(asked: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    with_records = sorted({record.table for record in records})
    if not asked:
        if not with_records:
            raise ValueError("--all: the record files are empty. Run an experiment first, or name other --records.")
        return with_records
    unknown = [name for name in asked if name not in with_records and name not in TITLES]
    if unknown:
        known = sorted({*TITLES, *with_records})
        raise ValueError(f"table={unknown[0]!r}: unknown. Known tables: {known}; with records: {with_records}.")
    return list(asked)


if __name__ == "__main__":
    sys.exit(main())
