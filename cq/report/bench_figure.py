"""Measured speed-ups as bars: against PyTorch eager, and against the best full precision of the same machine."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cq.report.looks import PALETTE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
BASELINES = {
    "speedup_over_eager": "against PyTorch eager fp32 without a cache",
    "speedup_over_best_fp32": "against the best fp32 of this machine without a cache",
}
COLOURS = (PALETTE[1], PALETTE[5])
PAPER = "the paper's W8A8 figure, on a GPU: another machine"


def speedup_figure(rows: Sequence[Row]) -> "Figure":
    """A panel a cap (down) and number of threads (across) of one scenario; a pair of bars a way and interval."""
    caps, threads = ([*dict.fromkeys(row[key] for row in rows)] for key in ("cap", "threads"))
    shown = {(cap, count): _shown(rows, cap, count) for cap in caps for count in threads}
    tallest = max(map(len, shown.values()))
    figure = new_figure(3.4 + 4.2 * len(threads), len(caps) * (0.9 + 0.36 * tallest) + 1.0)
    panels = figure.subplots(len(caps), len(threads), squeeze=False, sharex="row")
    for line, cap in zip(panels, caps, strict=True):
        for axes, count in zip(line, threads, strict=True):
            if own := shown[cap, count]:
                _panel(axes, own, named=axes is line[0] or [*map(_name, own)] != [*map(_name, shown[cap, threads[0]])])
            else:
                axes.set_axis_off()  # not measured
    legend = {
        label: handle
        for axes in panels.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    figure.suptitle(rows[0]["title"], fontsize=12, fontweight="bold", x=0.01, ha="left")
    panels[-1][0].set_xlabel(
        "times as fast (whole trajectories, composed from medians of calls; lines: slowest to fastest)"
    )
    figure.legend(list(legend.values()), list(legend), loc="outside lower left", frameon=False)
    return figure


def _shown(rows: Sequence[Row], cap: str, threads: int) -> list[Row]:
    """Of one panel: quantized ways, eager with the cache, and other full precision without it."""
    own = [row for row in rows if (row["cap"], row["threads"]) == (cap, threads)]
    return [row for row in own if row["bits"] != "fp32" or (row["way"] == "eager") == (row["interval"] > 1)]


def _panel(axes: "Axes", rows: Sequence[Row], *, named: bool) -> None:
    for place, row in enumerate(rows):
        for (key, said), colour, shift in zip(BASELINES.items(), COLOURS, (-0.2, 0.2), strict=True):
            value = row[key]
            reach = [[max(0.0, value - row[f"{key}_low"])], [max(0.0, row[f"{key}_high"] - value)]]
            axes.barh(place + shift, value, 0.38, color=colour, label=said, zorder=2)
            axes.errorbar(value, place + shift, xerr=reach, color="#444444", linewidth=0.9, capsize=2, zorder=3)
            axes.annotate(
                f"{value:.1f}", (value + reach[1][0], place + shift), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=7.5,
            )  # fmt: skip
        if row["paper_gpu_speedup"] != "":
            mark: Any = {"marker": "D", "color": PALETTE[2], "linestyle": "", "markersize": 5}
            axes.plot([row["paper_gpu_speedup"]], [place], label=PAPER, zorder=4, **mark)
    axes.axvline(1, color="#999999", linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows] if named else [""] * len(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    cap = "native instructions" if rows[0]["cap"] == "native" else f"capped to {rows[0]['cap'].upper()}"
    axes.set_title(f"{cap}, {rows[0]['threads']} thread{'' if rows[0]['threads'] == 1 else 's'}")


def _name(row: Row) -> str:
    cache = f"N = {row['interval']}" if row["interval"] > 1 else "no cache"
    bits = "" if row["bits"] == "fp32" or row["bits"] in row["label"] else f" ({row['bits']})"
    return f"{row['label']}{bits}, {cache}"
