"""`cq-report pareto [TABLE] --x bops_image --y psnr_fp_db [--z schedule]`: what nothing beats, drawn and listed.

Axes are scores, counted or measured costs, as in `cq-report rank`. A third one is shown by colour and counts where more
or less of it is better; a choice, a number of the budget or a key of the configuration (schedule, N,
calibrate.max_interval) only colours. The picture and all points as CSV go to --out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cq.cli.selection import REPORT, bounds, selecting, tables
from cq.core.store import write_atomically
from cq.report.looks import save_png, style
from cq.report.pareto import Front, table_front
from cq.report.pareto_figure import pareto_figure
from cq.report.quantities import known, named
from cq.report.rank import COST, assumed
from cq.report.render import to_csv
from cq.report.tables import Table, bars
from cq.report.terminal import folded, points, width_here, written


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """What is printed. Raises ValueError for a table, an axis or a budget that there is not."""
    parser = selecting("cq-report pareto", __doc__)
    parser.add_argument("--x", default=COST, metavar="KEY", help=f"default: {COST}")
    parser.add_argument("--y", default="", metavar="KEY", help="default: psnr_fp_db, or the table's first score")
    parser.add_argument("--z", default="", metavar="KEY", help="a third axis, or what colours points")
    parser.add_argument("--out", type=Path, default=REPORT, metavar="FOLDER", help=f"default: {REPORT}")
    options = parser.parse_args(arguments)
    width = width_here()
    for table in tables(options):
        x, y, z = options.x, options.y or assumed(table), options.z
        quantities = [named(x, table.metrics, f"--x {x}"), named(y, table.metrics, f"--y {y}")]
        third = known(table.metrics).get(z)
        group = z if third is None or not third.better else ""
        quantities += [third] if third is not None and not group else []
        front = table_front(table, quantities, bounds(options, table), group)
        yield "\n".join([table.title, "", *folded(front.lines(), width), "", *points(front.notes, width)])
        name = "_".join([table.name, "pareto", *(quantity.key for quantity in quantities), *[group] * bool(group)])
        yield written(_write(front, table, options.out / name))


def _write(front: Front, table: Table, base: Path) -> list[Path]:
    """The picture and the points."""
    files = [base.with_name(f"{base.name}{suffix}") for suffix in (".png", ".csv")]
    base.parent.mkdir(parents=True, exist_ok=True)
    with style():
        save_png(pareto_figure(front, f"{table.name}: what nothing beats (bars: {bars(table.rows)})"), files[0])
    write_atomically(files[1], to_csv(front.frame()).encode())
    return files
