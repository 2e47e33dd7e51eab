"""`cq-report table5`: write a table and its figures from run records, and print it. `cq-report VERB ...`: see `VERBS`.

Works in any folder: without --records it takes results/runs_*.jsonl in it, or else runs/records.jsonl, where `cq` keeps
what is of no table of its own.
"""

import argparse
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from cq.cli.commands import ended
from cq.report.render import render_table
from cq.report.terminal import width_here, written
from cq.run.config import PAPER
from cq.run.record import RunRecord
from cq.run.record_file import read, reseal
from cq.run.tables import table_names

log = logging.getLogger(__name__)

OWN = Path("runs/records.jsonl")  # where `cq` keeps what is of no table of its own

# First word to what it does; cq/cli/WORD.py has `lines(arguments)`, which does it and yields what is printed.
VERBS: Mapping[str, str] = {
    "rank": "rows by a score or a cost, within a budget",
    "pareto": "what nothing beats, drawn and listed",
    "page": "a sweep or a run as a page of HTML",
    "diff": "two runs or rows: configuration, scores, images",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `cq.cli.commands.ended`; 2 where a table cannot be written."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        verb, *rest = given
        lines = import_module(f"cq.cli.{verb}").lines
        return ended(f"cq-report {verb}", lambda: _print(lines(rest)))
    parser = argparse.ArgumentParser(
        prog="cq-report", description="Write tables and figures from run records.",
        epilog="Further: " + "; ".join(f"`cq-report {verb} -h`: {does}" for verb, does in VERBS.items()),
    )  # fmt: skip
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of tables, such as table5")
    parser.add_argument("--all", action="store_true", help="every table that has records")
    parser.add_argument(
        "--records", nargs="+", type=Path, metavar="FILE", help="default: results/runs_*.jsonl, or runs/records.jsonl"
    )
    parser.add_argument("--paper", type=Path, default=PAPER, metavar="FILE", help="published numbers to set beside")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="gets tables/ and figures/; default: the records'")
    parser.add_argument("--no-figures", action="store_true", help="write the tables only")
    parser.add_argument("--svg", action="store_true", help="write figures also as SVG, panels apart, as for a paper")
    parser.add_argument(
        "--prune", action="store_true", help="with --all: delete strips of images beside the records that none shows"
    )
    parser.add_argument("--seal", nargs="+", type=Path, metavar="FILE", help="accept record files as they are edited")
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if [options.all, bool(options.tables), bool(options.seal)].count(True) != 1:
        parser.error("name the tables, or give --all, or --seal (one of the three)")
    if options.prune and (not options.all or options.no_figures or options.records):
        parser.error("--prune goes with --all, of all records here and with figures: what any of them shows is kept")
    return ended("cq-report", lambda: _seal(options.seal) if options.seal else _write(options))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _seal(files: Sequence[Path]) -> None:
    for path in files:
        print(f"{path}: {reseal(path)} records, sealed")


def _write(options: argparse.Namespace) -> None:
    files = options.records or found_here(options.tables)
    records = [record for path in files for record in _read(path)]
    out = options.out or files[0].parent
    shown: set[Path] = set()
    for name in _names(options.tables, records):
        rendered = render_table(name, records, options.paper, out, figures=not options.no_figures, svg=options.svg)
        print(rendered.text(width_here()))
        print(written(rendered.files))
        shown |= set(rendered.strips)
    if options.prune:
        for path in _unshown(files, shown):
            path.unlink()
            print(f"deleted {path}")


def _unshown(files: Sequence[Path], shown: Collection[Path]) -> Iterator[Path]:
    """The strips beside the record files that neither a figure shows nor another file of records names."""
    for folder in sorted({path.parent for path in files}):
        others = "".join(path.read_text() for path in folder.glob("*.jsonl") if path not in files)
        for path in sorted((folder / "thumbnails").glob("*.png")):
            if path not in shown and path.name not in others:
                yield path


def found_here(tables: Sequence[str]) -> list[Path]:
    """The record files below the working folder that hold `tables`. Raises FileNotFoundError where there is none."""
    found = committed(Path("results"))
    held = {path.stem.removeprefix("runs_") for path in found}
    if OWN.is_file() and (not found or (tables and not held & set(tables))):
        found = [OWN]
    if not found:
        raise FileNotFoundError(
            f"there is no record file in {Path.cwd()}: no results/runs_*.jsonl, and no {OWN}. Name one with --records."
        )
    return found


def committed(folder: Path) -> list[Path]:
    """The record files of a results folder, one a table."""
    return sorted(folder.glob("runs_*.jsonl"))


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
    known = sorted({*table_names(), *with_records})
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(f"table={unknown[0]!r}: unknown. Known tables: {known}; with records: {with_records}.")
    return list(asked)


if __name__ == "__main__":
    sys.exit(main())
