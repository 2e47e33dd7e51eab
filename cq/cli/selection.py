"""Which tables, of which record files, a command is about."""

import argparse
from pathlib import Path

from cq.cli.report import OWN, found_here
from cq.report.build import build_tables
from cq.report.paper import read_paper
from cq.report.quantities import Bound, bound
from cq.report.tables import Table
from cq.run.config import PAPER
from cq.run.record_file import read

REPORT = Path("runs/report")  # where what is drawn goes, unless --out says otherwise


def selecting(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that takes a table, its record files, and budgets."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("table", nargs="?", metavar="TABLE", help="default: the only one that has records")
    add_records(parser)
    for option, words in (("--under", "at most"), ("--at-least", "at least")):
        parser.add_argument(
            option, nargs="+", action="extend", default=[], metavar="KEY=NUMBER",
            help=f"only rows with {words} this, such as bops_image=1G, memory=2GiB, seconds=0.5, N=10, weight_bits=8",
        )  # fmt: skip
    return parser


def add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records", nargs="+", type=Path, metavar="FILE", help=f"default: {OWN}, or results/runs_*.jsonl"
    )


def files(options: argparse.Namespace, table: str = "") -> list[Path]:
    """The record files that are named, or those here: of one's own runs, where no table is asked for."""
    if not options.records and not table and OWN.is_file():
        return [OWN]
    return options.records or found_here([table] if table else [])


def tables(options: argparse.Namespace) -> list[Table]:
    """The table that is asked for, or its parts, one a model. Raises ValueError where none or several may be meant."""
    asked = files(options, options.table)
    records = [record for path in asked for record in read(path)]
    if not records:
        raise ValueError(f"{', '.join(map(str, asked))}: no record in it. Run `cq` first, or name other --records.")
    known = sorted({record.table for record in records})
    name = options.table or (known[0] if len(known) == 1 else "")
    if name not in known:
        said = f"table={name!r}: has no records here" if name else "no TABLE: records are of several"
        raise ValueError(f"{said}. Name one of {', '.join(known) or 'none'}, or other --records.")
    return build_tables(name, records, read_paper(PAPER))


def bounds(options: argparse.Namespace, table: Table) -> list[Bound]:
    """The budgets. Raises ValueError for one that is none."""
    return [
        *(bound(text, table.metrics, at_least=False) for text in options.under),
        *(bound(text, table.metrics, at_least=True) for text in options.at_least),
    ]
