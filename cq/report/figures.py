"""Figures with a place for each row: schedules, error by call, images, and all three side by side.

They draw the rows of one budget (`cq.report.budgets`), which their titles name.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.report.budgets import Chosen
from cq.report.looks import Looks, look, new_figure, wrapped
from cq.report.tables import Row
from cq.run.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = "latent_error_fp"
SCHEDULES = "Calls on which the whole network runs"
ERRORS = "Error against full precision, same seeds"
NOT_KEPT = 1 / 24  # height over width of the line that stands where a strip would


def schedule_figure(chosen: Chosen, looks: Looks) -> "Figure | None":
    """One line a configuration, with a tick at every call on which the whole network runs; None without schedules."""
    shown = _with_schedule(chosen.rows)
    if not shown:
        return None
    figure = new_figure(7.6, 0.55 + 0.42 * len(shown))
    _draw_schedules(figure.subplots(), looks, shown, chosen.titled(SCHEDULES))
    return figure


def error_figure(chosen: Chosen, looks: Looks) -> "Figure | None":
    """Relative error of the latents against full precision after each call, mean over seeds; None without curves."""
    shown = _with_curve(chosen.rows)
    if not shown:
        return None
    figure = new_figure(7.6, max(3.4, 0.5 + 0.3 * len(shown)))
    axes = figure.subplots()
    _draw_errors(axes, looks, shown, chosen.titled(ERRORS))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def image_figure(chosen: Chosen, *, thumbnails: Path) -> "Figure | None":
    """The first images of each configuration, same seeds in one column; None without thumbnails."""
    shown = with_images(chosen.rows, thumbnails)
    if not shown:
        return None
    figure = new_figure(7.2, sum(_strip_height(path, 5.2) + 0.1 for _, path in shown))
    for axes, (row, path) in zip(_column_of_axes(figure, shown), shown, strict=True):
        _draw_strip(axes, row, path)
        if chosen.name and row is shown[0][0]:
            axes.set_title(chosen.titled("Same seed, same column"))
    return figure


def overview_figure(chosen: Chosen, looks: Looks, *, thumbnails: Path, title: str) -> "Figure | None":
    """Images row by row on the left, schedules and error by call on the right; None where one of these is missing."""
    rows = chosen.rows
    images, schedules, curves = with_images(rows, thumbnails), _with_schedule(rows), _with_curve(rows)
    if not (images and schedules and curves):
        return None
    strips = sum(_strip_height(path, 5.8) + 0.12 for _, path in images)
    lower = min(3.0, max(2.0, 0.42 * strips)) + 0.13 * len(curves)
    height = max(strips, 0.9 + 0.34 * len(schedules) + lower)
    figure = new_figure(13.6, height + 0.7)
    panels: Any = figure.subfigures(1, 2, width_ratios=(7.6, 6.0), wspace=0.02)
    left, right = panels
    for axes, (row, path) in zip(_column_of_axes(left, images), images, strict=True):
        _draw_strip(axes, row, path)
        if row is images[0][0]:
            axes.set_title("One configuration a row, one seed a column")
    upper_axes, lower_axes = right.subplots(2, 1, height_ratios=(height - lower, lower))
    _draw_schedules(upper_axes, looks, schedules, SCHEDULES)
    _draw_errors(lower_axes, looks, curves, ERRORS)
    right.legend(
        *lower_axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    figure.suptitle(chosen.titled(title), fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_schedules(axes: "Axes", looks: Looks, shown: Sequence[Row], title: str) -> None:
    for place, row in enumerate(shown):
        schedule = _first(row).schedule
        colour = look(looks, row).colour
        calls, refreshes = schedule["num_calls"], list(schedule["refresh_calls"])
        axes.hlines(place, -0.5, calls - 0.5, color="#DDDDDD", linewidth=1, zorder=1)
        if len(refreshes) == calls:  # ticks without a gap between them would only make a pattern of the pixels
            axes.barh(place, calls, left=-0.5, height=0.6, color=colour, zorder=2)
        else:
            axes.vlines(refreshes, place - 0.3, place + 0.3, color=colour, linewidth=_tick_width(calls), zorder=2)
        share, beside = f"{len(refreshes)} of {calls}", axes.get_yaxis_transform()
        axes.text(1.01, place, share, transform=beside, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [wrapped(row.title) for row in shown])
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-1, max(_first(row).schedule["num_calls"] for row in shown))
    axes.set_xlabel("call of the denoiser (0 is the noisiest)")
    axes.set_title(title)


def _draw_errors(axes: "Axes", looks: Looks, shown: Sequence[Row], title: str) -> None:
    for row in shown:
        drawn = look(looks, row)
        curve = _curve(row)
        # A logarithmic axis has no place for an error of exactly zero, such as before the first reused map.
        points = [(call, value) for call, value in enumerate(curve) if value > 0 and math.isfinite(value)]
        label = wrapped(row.title, 34)
        axes.plot(*zip(*points, strict=True), color=drawn.colour, linestyle=drawn.dash, linewidth=1.6, label=label)
    axes.set_yscale("log")
    axes.grid(axis="y", which="major", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-1, max(len(_curve(row)) for row in shown))
    axes.set_xlabel("call of the denoiser (0 is the noisiest)")
    axes.set_ylabel("relative error of the latents")
    axes.set_title(title)


def _draw_strip(axes: "Axes", row: Row, path: Path | None) -> None:
    if path is None:
        axes.text(0.01, 0.5, "images not kept", transform=axes.transAxes, va="center", color="#777777", fontsize=8.5)
    else:
        strip = _strip(path)
        axes.imshow(strip, interpolation="nearest", cmap="gray", vmin=0, vmax=1)  # PNG pixels arrive as 0..1
        height, width = strip.shape[:2]
        if width % height == 0:  # squares without gaps between them: part them, or neighbours read as one image
            axes.vlines([x - 0.5 for x in range(height, width, height)], -0.5, height - 0.5, color="white", linewidth=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_ylabel(wrapped(row.title), rotation=0, ha="right", va="center", labelpad=6, fontsize=8.5)


def _with_schedule(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.ok and _first(row).schedule]


def _with_curve(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if any(value > 0 and math.isfinite(value) for value in _curve(row))]


def with_images(rows: Sequence[Row], thumbnails: Path) -> list[tuple[Row, Path | None]]:
    """Rows that have images with their strip, None where that was not kept; [] where none was."""
    named = [(row, thumbnails / _first(row).thumbnails) for row in rows if row.ok and _first(row).thumbnails]
    found = [(row, path if path.is_file() else None) for row, path in named]
    return found if any(path for _, path in found) else []


def _first(row: Row) -> RunRecord:
    """The run that is drawn: that of the lowest seed, so that rows show the same images."""
    return min(row.ok, key=lambda record: record.seed)


def _curve(row: Row) -> list[float]:
    """Error after each call, mean over the seeds; [] without a curve, the first seed's where the lengths differ."""
    curves = [list(record.scores[CURVE]["curve"]) for record in row.ok if CURVE in record.scores]
    if not curves or len({len(curve) for curve in curves}) > 1:
        return curves[0] if curves else []
    return [math.fsum(values) / len(values) for values in zip(*curves, strict=True)]


def _tick_width(calls: int) -> float:
    return min(2.2, 260 / calls)


def _strip(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)


def _strip_height(path: Path | None, width: float) -> float:
    """Height in inches of a strip drawn `width` inches wide."""
    if path is None:
        return width * NOT_KEPT
    height_px, width_px = _strip(path).shape[:2]
    return float(width * height_px / width_px)


def _column_of_axes(figure: Any, shown: Sequence[tuple[Row, Path | None]]) -> "list[Axes]":
    ratios = [_strip_height(path, 1.0) for _, path in shown]
    return list(figure.subplots(len(shown), 1, squeeze=False, height_ratios=ratios)[:, 0])
