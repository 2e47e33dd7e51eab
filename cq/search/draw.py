"""The front of a search as a picture: what was searched, what of it stands on fresh seeds, and what it is beside."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cq.report.looks import PALETTE, new_figure, save_png, style, wrapped
from cq.report.metrics import metric_title
from cq.run.objective import MEASURED, Objective
from cq.search.fresh import Judged
from cq.search.study import Point, front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, FOUND, CONTROL = "#999999", PALETTE[1], PALETTE[2]
WORDS = {
    "macs_image": "MACs of an image (counted)",
    "bops_image": "BOPs of an image (counted)",
    "bops_share": "BOPs over full precision's (counted)",
    "weight_bytes": "bytes of the weights (counted)",
    "seconds_per_image": "seconds an image (measured)",
    "seconds_share": "seconds over full precision's (measured)",
    "peak_mem_mib": "peak memory, MiB (measured)",
}


def title_of(objective: Objective) -> str:
    """In words, with the good direction of a score and how a cost is known."""
    return WORDS.get(objective.key) or metric_title(objective.key, objective.better)


def draw_front(points: Sequence[Point], judged: Sequence[Judged], objectives: Sequence[Objective], path: Path) -> Path:
    """One panel for every objective after the first, which stands upright. Numbers name the lines of the legend."""
    with style():
        figure = new_figure(5.4 * (len(objectives) - 1) + 4.0, 4.6)
        panels = figure.subplots(1, len(objectives) - 1, squeeze=False)[0]
        for index, axes in enumerate(panels, 1):
            _draw(axes, points, judged, objectives, index)
        names = [f"{n}  {each.short}" for n, each in enumerate(judged, 1)]
        figure.text(
            1.01, 0.97, "\n".join(wrapped(name, 56).replace("\n", "\n     ") for name in names), fontsize=7, va="top"
        )
        save_png(figure, path)
    return path


def _draw(
    axes: "Axes", points: Sequence[Point], judged: Sequence[Judged], objectives: Sequence[Objective], index: int
) -> None:
    quality, cost = objectives[0], objectives[index]
    pairs = [(point.values[index], point.values[0]) for point in points]
    axes.plot(*zip(*pairs, strict=True), ".", color=GREY, markersize=6, label="searched", zorder=1)
    flat = [Point(params={}, overrides=(), values=(y, x)) for x, y in pairs]
    line = [(point.values[1], point.values[0]) for point in front(flat, (quality, cost))]
    axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1, label="their front", zorder=1)
    for control, colour, marker, label in ((False, FOUND, "o", "the front"), (True, CONTROL, "D", "controls")):
        mine = [(n, each) for n, each in enumerate(judged, 1) if each.control == control and each.values]
        if not mine:
            continue
        x, y = zip(*((each.mean[index], each.mean[0]) for _, each in mine), strict=True)
        xerr, yerr = zip(*((each.spread[index], each.spread[0]) for _, each in mine), strict=True)
        seeds = len(mine[0][1].values)
        axes.errorbar(
            x, y, xerr=xerr, yerr=yerr, fmt=marker, color=colour, markersize=4.5, elinewidth=1,
            label=f"{label} on {seeds} fresh seeds", zorder=2 + control,
        )  # fmt: skip
        for (n, _), left, up in zip(mine, x, y, strict=True):
            axes.annotate(str(n), (left, up), xytext=(4, 3), textcoords="offset points", fontsize=7, color=colour)
    xs = [x for x, _ in pairs] + [each.mean[index] for each in judged if each.values]
    if min(xs) > 0 and math.log10(max(xs) / min(xs)) > 1:
        axes.set_xscale("log")
    axes.set_xlabel(title_of(cost))
    axes.set_ylabel(title_of(quality))
    simulated = "; bits are simulated unless engine=int8" if cost.key not in MEASURED else ""
    axes.set_title(f"Quality and cost{simulated}")
    axes.legend(frameon=False, fontsize=7.5)
