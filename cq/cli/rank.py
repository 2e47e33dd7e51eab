"""`cq-report rank [TABLE] --by psnr_fp_db --under bops_image=1G`: rows by a score or a cost, within a budget.

Rows that the data cannot tell apart share a rank. Scores are by their names in the records; costs are counted
(bops_image, macs_image, bops_mean, macs_mean, weight_bytes, compression, num_refreshes) or measured (seconds_per_image,
speedup, peak_mem_mib); numbers are cache_interval, num_steps, weight_bits, act_bits.
"""

from collections.abc import Iterator, Sequence

from cq.cli.selection import bounds, selecting, tables
from cq.report.rank import ranking
from cq.report.terminal import folded, points, width_here


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """What is printed. Raises ValueError for a table, a quantity or a budget that there is not."""
    parser = selecting("cq-report rank", __doc__)
    parser.add_argument("--by", default="", metavar="KEY", help="default: psnr_fp_db, or the table's first score")
    options = parser.parse_args(arguments)
    width = width_here()
    for table in tables(options):
        found = ranking(table, options.by, bounds(options, table))
        yield "\n".join([table.title, "", *folded(found.lines(), width), "", *points(found.notes(), width), ""])
