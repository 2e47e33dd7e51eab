"""Figures with panels of the paper's own: its metrics are others, so that nothing of it shares an axis with ours."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cq.report.budgets import Chosen
from cq.report.coupling import PARTS, Coupling, loss_columns, losses, published_losses, published_setting
from cq.report.looks import PALETTE, Looks, look, new_figure, settled, wrapped
from cq.report.metrics import judging
from cq.report.paper import Published
from cq.report.preparation import TIME, prepared, published
from cq.report.tables import Row, Table, bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (PALETTE[1], PALETTE[2], "#999999", PALETTE[0])  # of `PARTS`; black and grey are also told apart in print
GRID = "#E5E5E5"
WIDTH = 0.19  # of a bar; four and a gap make one


def coupling_figure(table: Table, found: Sequence[Coupling], title: str) -> "Figure | None":
    """Four bars a schedule: each technique's loss, their sum, and both combined; a panel a metric, the paper's last.

    None without a metric to lose by.
    """
    columns = [column for column in loss_columns(table) if any(losses(coupling, column) for coupling in found)]
    if not columns:
        return None
    theirs = published_losses(found)
    num = len(columns) + bool(theirs)
    widths = [max(1.4, 1.1 * len(found))] * len(columns) + [1.4] * bool(theirs)
    figure = new_figure(1.2 * num + 1.75 * sum(widths), 3.9)
    panels: Any = figure.subplots(1, num, squeeze=False, width_ratios=widths)[0]
    models = {coupling.both.model for coupling in found}
    for axes, column in zip(panels, columns, strict=False):
        names: list[str] = []
        for loss, coupling in [(losses(coupling, column), coupling) for coupling in found]:
            if loss is None:
                continue
            for part, (stat, values) in enumerate(zip(loss.stats, loss.per_seed, strict=True)):
                at = len(names) + (part - 1.5) * WIDTH
                axes.bar(at, stat.mean, WIDTH * 0.9, color=COLOURS[part], yerr=stat.spread, ecolor="#777777")
                places = [at + WIDTH * 0.22 * (place - (len(values) - 1) / 2) for place in range(len(values))]
                axes.plot(
                    places, values, linestyle="none", marker="o", markersize=3, markerfacecolor="white",
                    markeredgecolor="#444444", markeredgewidth=0.7,
                )  # fmt: skip
            names.append(wrapped(coupling.schedule, 14) + (f"\n{coupling.both.model}" if len(models) > 1 else ""))
        _bar_axes(axes, names)
        axes.set_ylabel(wrapped(f"loss, {column.title.rpartition(' (')[0]}", 38))
        axes.set_title(f"Ours, {_seeds(found)}")
    if theirs:
        alone, other, both = theirs
        for part, value in enumerate((alone.value, other.value, alone.value + other.value, both.value)):
            at = (part - 1.5) * WIDTH
            panels[-1].bar(at, value, WIDTH * 0.9, color=COLOURS[part])
            panels[-1].annotate(f"{value:.2f}", (at, value), ha="center", va="bottom", fontsize=8)
        _bar_axes(panels[-1], [wrapped(published_setting(theirs), 30)])
        panels[-1].set_ylabel(alone.metric)
        panels[-1].set_title("The paper's")
    _legend(figure)
    figure.suptitle(f"{table.name}: {title}", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return settled(figure)


def preparation_figure(table: Table, chosen: Chosen, looks: Looks) -> "Figure | None":
    """Quality against the seconds before the first image; metrics from top to bottom, the paper's points on the right.

    Rows of one budget. None where their preparation does not differ by whole seconds.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    known = prepared(table)
    rows = [row for row in chosen.rows if row.preparation is not None] if known else []
    metrics = [column for column in judging(table.metrics) if any(row.judged_by(column.key) for row in rows)]
    if not metrics or len({round(row.preparation.total.mean) for row in rows if row.preparation}) < 2:
        return None
    theirs = _by_setting(published(table))
    height, width = max(len(metrics), len(theirs)), 1 + bool(theirs)
    figure = new_figure(7.0 + 4.2 * bool(theirs), 0.9 + 2.8 * height + 0.1 * len(rows))
    grid = figure.subplots(height, width, squeeze=False, width_ratios=[1.5, 1][:width])
    for axes, column in zip(grid[:, 0], metrics, strict=False):
        for row in rows:
            if row.judged_by(column.key) and row.preparation is not None:
                _point(axes, looks, row, column.key)
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(-0.15, 1.6 * max(row.preparation.total.mean for row in rows if row.preparation))
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_ylabel(wrapped(column.title))
        axes.set_xlabel("preparation, seconds (measured)")
    for axes, (setting, values) in zip(grid[:, -1] if theirs else (), theirs.items(), strict=False):
        _draw_published(axes, setting, values)
    for axes in [*grid[len(metrics) :, 0], *(grid[len(theirs) :, -1] if theirs else ())]:
        axes.set_axis_off()
    grid[0, 0].set_title(wrapped(f"Ours (bars: {bars(rows)})", 50))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    more = [handle for axes in grid[1:, 0] for handle in zip(*axes.get_legend_handles_labels(), strict=True)]
    named = dict(zip(labels, handles, strict=True)) | {label: handle for handle, label in more}
    figure.legend(named.values(), named.keys(), loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    title = chosen.titled(f"{table.name}: quality against preparation time")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    return settled(figure)


def _bar_axes(axes: "Axes", names: Sequence[str]) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _seeds(found: Sequence[Coupling]) -> str:
    counts = sorted({len(coupling.both.ok) for coupling in found})
    return f"{'/'.join(map(str, counts))} seed{'s' * (counts != [1])} (dots)"


def _legend(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=part) for colour, part in zip(COLOURS, PARTS, strict=True)]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8)


def _point(axes: "Axes", looks: Looks, row: Row, key: str) -> None:
    assert row.preparation is not None
    drawn, stat, time = look(looks, row), row.scores[key], row.preparation.total
    below, above = max(0.0, stat.mean - stat.band[0]), max(0.0, stat.band[1] - stat.mean)
    axes.errorbar(
        time.mean, stat.mean, xerr=time.spread, yerr=[[below], [above]], ecolor=(drawn.colour, 0.45), elinewidth=0.9,
        linestyle="none",
    )  # fmt: skip
    axes.plot(
        time.mean, stat.mean, color=drawn.colour, marker=drawn.marker, markersize=6, linestyle="none", label=row.title
    )


def _by_setting(points: Sequence[Mapping[str, Published]]) -> dict[str, list[Mapping[str, Published]]]:
    """Setting, as a title, to its points."""

    def name(values: Mapping[str, Published]) -> str:
        return values[TIME].setting

    return {setting: list(group) for setting, group in groupby(points, key=name)}


def _draw_published(axes: "Axes", setting: str, points: Sequence[Mapping[str, Published]]) -> None:
    """One panel: time in the paper's own unit, names beside the points."""
    metric = next(name for name in points[0] if name != TIME)
    shown = [values for values in points if metric in values]
    units = " or ".join(dict.fromkeys(values[TIME].unit for values in shown))
    for place, values in enumerate(shown):
        time, quality = values[TIME].value, values[metric].value
        axes.plot(time, quality, color=PALETTE[place % len(PALETTE)], marker="o", markersize=6, linestyle="none")
        budget = values[TIME].budget
        name = values[TIME].method + (f", N={budget['cache_interval']}" if "cache_interval" in budget else "")
        right = time > max(v[TIME].value for v in shown) / 4
        above = place % 2 == 0  # neighbours in turns, or long names run into each other
        axes.annotate(
            name, (time, quality), xytext=(-6 if right else 6, 5 if above else -5), textcoords="offset points",
            fontsize=8, ha="right" if right else "left", va="bottom" if above else "top",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.15)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"preparation, {units}")
    axes.set_ylabel(metric)
    axes.set_title(wrapped(f"The paper's: {setting}", 44), fontsize=9)
