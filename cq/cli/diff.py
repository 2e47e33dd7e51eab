"""`cq-report diff A B`: in what two runs differ, which is better by what, and their images side by side.

A and B are each a number in the record file, an EXPERIMENT, a label or name in a table, the first digits of an image or
configuration digest, or words that apply, such as 'dps ptq N=5'. But for a number and a digest, that is a row with all
its seeds. Scores of different protocols are not compared. The picture goes to --out.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from cq.cli.selection import REPORT, add_records, files
from cq.report.difference import Difference, difference
from cq.report.looks import save_png, style
from cq.report.pick import DIGITS, row, runs_in
from cq.report.side_by_side import images_of, side_by_side
from cq.report.terminal import folded, points, width_here, written


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """What is printed. Raises ValueError where A or B names no configuration, or several."""
    parser = argparse.ArgumentParser(prog="cq-report diff", description=__doc__)
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    add_records(parser)
    parser.add_argument("--out", type=Path, default=REPORT, metavar="FOLDER", help=f"default: {REPORT}")
    options = parser.parse_args(arguments)
    runs = runs_in(files(options))
    found = difference(runs, row(runs, options.a), row(runs, options.b))
    width = width_here()
    yield "\n".join([*points(found.headings(), width), "", *folded(found.configuration(), width), ""])
    yield "\n".join([*folded(found.lines(), width), "", *points(found.notes(), width)])
    yield from _picture(found, options.out)


def _picture(found: Difference, out: Path) -> Iterator[str]:
    images = images_of(found.pairs)
    if images is None:
        yield "No images of one seed and one size are left of both, neither in the store nor as strips."
        return
    a, b = (each.records[0].config_digest[:DIGITS] for each in (found.a, found.b))
    path = out / f"diff_{a}_{b}.png"
    out.mkdir(parents=True, exist_ok=True)
    with style():
        save_png(side_by_side(images, found.headings(), f"From {images.source}"), path)
    yield f"Images are from {images.source}."
    yield written([path])
