"""Figures of all budgets of a table: quality by cache interval, and quality against counted cost."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cq.report.looks import Look, Looks, look, new_figure, wrapped
from cq.report.metrics import Column, judging
from cq.report.tables import Row, Table, bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COST = "bops_mean"
GRID = "#E5E5E5"
GREY = "#777777"


def interval_figure(table: Table, looks: Looks) -> "Figure | None":
    """Small multiples: widths from left to right, metrics from top to bottom, cache intervals along x.

    Rows that read no interval are level lines, fewer steps among them. Every panel has a scale of its own, for what a
    width costs is often far more than what tells its rows apart; the figure against cost shows all widths on one. None
    where the table has one interval only.
    """
    metrics = [column for column in judging(table.metrics) if any(column.key in row.scores for row in table.rows)]
    rows = _drawn([row for row in table.rows if row.ok], metrics)
    intervals = sorted({row.budget["cache_interval"] for row in rows if row.budget["cache_interval"] is not None})
    if len(intervals) < 2 or not metrics:
        return None
    names = _panel_names(rows)
    panels = list(dict.fromkeys(names))
    figure = new_figure(max(7.6, 1.0 + 3.3 * len(panels)), 0.9 + 2.5 * len(metrics) + 0.2 * len(looks) / 2)
    grid = figure.subplots(len(metrics), len(panels), squeeze=False, sharex=True)
    for line, column in zip(grid, metrics, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            inside = [row for row, name in zip(rows, names, strict=True) if name == panel]
            _draw_panel(axes, looks, _judged(inside, column), column, intervals)
        line[0].set_ylabel(wrapped(column.title))
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set_title(panel)
    for axes in grid[-1]:
        axes.set_xlabel("cache interval N")
    level = {(row.label, row.model) for row in rows if row.budget["cache_interval"] is None}
    _legend_below(figure, looks, rows, without_marker=level)
    _headline(figure, f"{table.name}: quality by cache interval, own scale a panel", rows)
    return figure


def tradeoff_figure(table: Table, looks: Looks) -> "Figure | None":
    """Quality against counted BOPs an image, metrics from top to bottom; budgets of one configuration are joined.

    None without both. Several widths of one configuration are told apart by how their markers are filled. The broad
    grey line is the front: what nothing of less cost is better than.
    """
    rows = [row for row in table.rows if COST in row.costs]
    metrics = [column for column in judging(table.metrics) if _judged(rows, column)]
    if not metrics:
        return None
    rows = _drawn(rows, metrics)
    fills = _fills(rows)
    figure = new_figure(8.2, 0.9 + 2.7 * len(metrics) + 0.2 * (len(looks) + len(fills)) / 2)
    grid = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for axes, column in zip(grid, metrics, strict=True):
        for line in _lines(_judged(rows, column)):
            drawn = look(looks, line[0])
            points = sorted(line, key=cost_an_image)
            places = list(map(cost_an_image, points))
            _draw_line(axes, drawn, points, places, column, fill=fills[line[0].bits])
        axes.plot(*front(_judged(rows, column), column), color=GREY, linewidth=5, alpha=0.25, drawstyle="steps-post")
        axes.set_ylabel(wrapped(column.title))
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.margins(x=0.06, y=0.1)
    _cost_axis(grid[-1])
    _legend_below(figure, looks, rows, fills=fills)
    _headline(figure, f"{table.name}: quality against cost, the front in grey", rows)
    return figure


def _draw_panel(axes: "Axes", looks: Looks, rows: Sequence[Row], column: Column, intervals: Sequence[int]) -> None:
    lines = list(_lines([row for row in rows if row.budget["cache_interval"] is not None]))
    for number, line in enumerate(lines):
        # A little aside, or error bars of equal length hide each other; no more, or slopes look like differences.
        aside = min(0.03, 0.12 / len(lines)) * (number - (len(lines) - 1) / 2)
        places = [intervals.index(row.budget["cache_interval"]) + aside for row in line]
        _draw_line(axes, look(looks, line[0]), line, places, column, fill="full")
    for row in rows:
        if row.budget["cache_interval"] is None:
            drawn, stat = look(looks, row), row.scores[column.key]
            if row.is_at_full_length:  # bands of fewer steps besides would hide everything
                axes.axhspan(*stat.band, color=drawn.colour, alpha=0.12, linewidth=0)
            axes.axhline(stat.mean, color=drawn.colour, linestyle=drawn.dash, linewidth=1.2)
    axes.set_xticks(range(len(intervals)), [str(interval) for interval in intervals])
    axes.set_xlim(-0.4, len(intervals) - 0.6)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_line(
    axes: "Axes", drawn: Look, rows: Sequence[Row], places: Sequence[float], column: Column, *, fill: str
) -> None:
    stats = [row.scores[column.key] for row in rows]
    # Bars without caps and half transparent: those of equal cost or interval lie over one another.
    below = [max(0.0, stat.mean - stat.band[0]) for stat in stats]
    above = [max(0.0, stat.band[1] - stat.mean) for stat in stats]
    colour, face = drawn.colour, drawn.colour if fill == "full" else "white"
    means = [stat.mean for stat in stats]
    axes.errorbar(places, means, yerr=[below, above], ecolor=(colour, 0.45), elinewidth=0.9, linestyle="none")
    axes.plot(
        places, means, color=colour, linestyle=drawn.dash, linewidth=1.2,
        marker=drawn.marker, markersize=5, markerfacecolor=face,
    )  # fmt: skip


def front(rows: Sequence[Row], column: Column) -> tuple[list[float], list[float]]:
    """Costs and means of the rows that are better than all that cost less."""
    sign = 1 if column.better == "up" else -1
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (cost_an_image(row), -sign * row.scores[column.key].mean)):
        if not best or sign * (row.scores[column.key].mean - best[-1].scores[column.key].mean) > 0:
            best.append(row)
    return [cost_an_image(row) for row in best], [row.scores[column.key].mean for row in best]


def _judged(rows: Sequence[Row], column: Column) -> list[Row]:
    return [row for row in rows if row.judged_by(column.key)]


def _drawn(rows: Sequence[Row], metrics: Sequence[Column]) -> list[Row]:
    """Rows that a panel shows: full precision has no place where all metrics compare with it."""
    return [row for row in rows if any(row.judged_by(column.key) for column in metrics)]


def _lines(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of one configuration, width and number of steps, by interval."""

    def key(row: Row) -> tuple[Any, ...]:
        return (row.label, row.model, row.bits, row.budget["num_steps"] or 0)

    order = {key(row): place for place, row in reversed(list(enumerate(rows)))}
    together = sorted(rows, key=lambda row: (order[key(row)], row.budget["cache_interval"] or 0))
    for _, line in groupby(together, key=key):
        yield list(line)


def _panel_names(rows: Sequence[Row]) -> list[str]:
    """Widths, with model and number of steps where the table has several; fewer steps stand beside their baseline."""
    models, steps = {row.model for row in rows}, {row.baseline_steps for row in rows}
    return [
        ", ".join([row.bits] + [row.model] * (len(models) > 1) + [f"T = {row.baseline_steps}"] * (len(steps) > 1))
        for row in rows
    ]


def _fills(rows: Sequence[Row]) -> dict[str, str]:
    """Widths to full or hollow markers: hollow for all quantized widths but the widest."""
    widths = list(dict.fromkeys(row.bits for row in rows))
    widest = next((row.bits for row in rows if row.records[0].quantized), "")
    return {bits: "full" if bits in (widest, "32/32") else "none" for bits in widths}


def _legend_below(
    figure: "Figure",
    looks: Looks,
    rows: Sequence[Row],
    *,
    fills: Mapping[str, str] = MappingProxyType({}),
    without_marker: Collection[tuple[str, str]] = (),
) -> None:
    from matplotlib.lines import Line2D

    def entry(text: str, face: str | None = None, **options: Any) -> Line2D:
        return Line2D([], [], markersize=5, markerfacecolor=face or options["color"], label=text, **options)

    models = {row.model for row in rows}
    handles = []
    for key in dict.fromkeys((row.label, row.model) for row in rows):
        drawn, text = looks[key], ", ".join(key if len(models) > 1 else key[:1])
        marker = "" if key in without_marker else drawn.marker
        handles.append(entry(text, color=drawn.colour, linestyle=drawn.dash, marker=marker))
    for fill, words, face in (
        (("full", "filled", GREY), ("none", "hollow", "white")) if len({*fills.values()}) > 1 else ()
    ):
        widths = ", ".join(bits for bits, found in fills.items() if found == fill)
        handles.append(entry(f"{words}: {widths}", face, color=GREY, linestyle="none", marker="o"))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=8, handlelength=3.6)


def _headline(figure: "Figure", text: str, rows: Sequence[Row]) -> None:
    figure.suptitle(f"{text} (bars: {bars(rows)})", fontsize=11, fontweight="bold", x=0.01, ha="left")


def cost_an_image(row: Row) -> float:
    """All calls together, so that fewer steps count; the mean over calls is the table's column."""
    calls = [float(record.counted["num_calls"]) for record in row.ok]
    return row.costs[COST].mean * sum(calls) / len(calls)


def _cost_axis(axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # costs within one decade may hold no power of ten
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("BOPs an image (counted)")
