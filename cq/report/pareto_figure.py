"""The picture of a front: its points joined and numbered, what they dominate light, controls apart."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cq.report.looks import PALETTE, new_figure, settled, wrapped
from cq.report.pareto import FULL, Front, Point, Respect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID, GREY, LIGHT = "#E5E5E5", "#777777", "#C4C4C4"
LINE = PALETTE[1]
MARK_SIZE = 8  # of the numbers, points
REACH = (9, 15, 22)  # how far from its point a number may stand, points


def pareto_figure(front: Front, title: str) -> "Figure":
    """The first two respects are the axes, a third, or the groups, are colours."""
    entries = len(front.marks) + len({point.group for point in front.points})
    lines = sum(len(wrapped(front.points[place].name, 40).splitlines()) + 1 for place in front.marks)
    figure = new_figure(11.0, max(5.0, 1.3 + 0.15 * (lines + 2 * entries)))
    axes = figure.subplots()
    colours = _colours(front)
    if len(front.respects) > 2:
        _colour_bar(figure, axes, front)
    for place, point in enumerate(front.points):
        if not point.control:
            _draw(axes, point, colours[place], light=place not in front.best)
    if len(front.respects) == 2:  # of three, the front is no line
        axes.plot(*_places(front, front.best), color=GREY if front.groups else LINE, linewidth=1.3, zorder=2)
    _draw_controls(axes, front)
    for respect, axis in zip(front.respects, "xy", strict=False):
        _dress(axes, respect, axis)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(0.08)
    figure.legend(
        handles=_legend(front, colours), loc="outside right upper", frameon=False, fontsize=8, handlelength=1.6,
        labelspacing=0.6,
    )  # fmt: skip
    axes.set_title(wrapped(title, 68))
    settled(figure)
    _number(axes, front)
    return figure


def _colours(front: Front) -> list[Any]:
    """Of each point: by the third respect, by its group, or one for all."""
    if len(front.respects) > 2:
        from matplotlib import colormaps

        scale = _scale(front)
        return [colormaps["viridis"](scale(point.values[2])) for point in front.points]
    if not front.groups:
        return [LINE if place in front.best else LIGHT for place in range(len(front.points))]
    groups = list(dict.fromkeys(point.group for point in front.points))
    return [PALETTE[(groups.index(point.group) + 1) % len(PALETTE)] for point in front.points]


def _scale(front: Front) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    values = [point.values[2] for point in front.points]
    kind: Any = LogNorm if front.respects[2].logarithmic else Normalize
    return kind(min(values), max(values))


def _colour_bar(figure: "Figure", axes: "Axes", front: Front) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(_scale(front), "viridis"), ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02
    )
    bar.set_label(f"colour: {_said(front.respects[2])}")
    _ticks(bar.ax, front.respects[2], "x")


def _draw(axes: "Axes", point: Point, colour: Any, *, light: bool) -> None:
    x, y, *_ = point.values
    if point.band and not light:
        axes.plot([x, x], point.band, color=colour, alpha=0.45, linewidth=0.9, zorder=2)
    axes.plot(
        x, y, marker="o", linestyle="none", color=colour, markersize=5 if light else 7,
        alpha=0.35 if light and colour != LIGHT else 1,
        markeredgecolor="none" if light else "black", markeredgewidth=0.6, zorder=1 if light else 4,
    )  # fmt: skip


def _draw_controls(axes: "Axes", front: Front) -> None:
    for place in front.controls:
        point = front.points[place]
        axes.plot(
            *point.values[:2], marker="*" if point.control == FULL else "D", linestyle="none", zorder=3,
            color="black", markerfacecolor="black" if point.control == FULL else "white",
            markersize=10 if point.control == FULL else 5.5,
        )  # fmt: skip
    axes.plot(*_places(front, front.fewer), color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)


def _places(front: Front, places: Sequence[int]) -> tuple[list[float], list[float]]:
    return [front.points[place].values[0] for place in places], [front.points[place].values[1] for place in places]


def _legend(front: Front, colours: Sequence[Any]) -> list[Any]:
    """Every number and letter with its name and values, then what is light and what colours stand for."""
    from matplotlib.lines import Line2D

    def entry(text: str, **options: Any) -> Line2D:
        return Line2D([], [], **{"linestyle": "none", "markersize": 6, "label": text, **options})

    handles = []
    for place, mark in front.marks.items():
        point = front.points[place]
        values = [respect.text(value) for respect, value in zip(front.respects, point.values, strict=True)]
        text = f"{mark}  {wrapped(point.name, 40)}\n{' at '.join([values[1], values[0]])}" + "".join(
            f", {value}" for value in values[2:]
        )
        look: dict[str, Any] = {"marker": "o", "color": colours[place], "markeredgecolor": "black"}
        if point.control:
            full = point.control == FULL
            look = {"marker": "*" if full else "D", "color": "black", "markerfacecolor": "black" if full else "white"}
        handles.append(entry(text, **look))
    num = len(front.points) - len(front.marks)
    if num:
        handles.append(entry(f"{num} dominated", marker="o", color=LIGHT, markersize=5))
    for group in dict.fromkeys(point.group for point in front.points if not point.control) if front.groups else ():
        place = next(at for at, point in enumerate(front.points) if point.group == group and not point.control)
        handles.append(entry(f"{front.groups}: {group}", marker="s", color=colours[place]))
    return handles


def _dress(axes: "Axes", respect: Respect, axis: str) -> None:
    if respect.logarithmic:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    _ticks(axes, respect, axis)
    (axes.set_xlabel if axis == "x" else axes.set_ylabel)(_said(respect))


def _ticks(axes: "Axes", respect: Respect, axis: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    one = axes.xaxis if axis == "x" else axes.yaxis
    if respect.logarithmic:
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.set_minor_locator(NullLocator())
    if "(counted)" in respect.title:
        one.set_major_formatter(EngFormatter())
    elif respect.logarithmic:
        one.set_major_formatter("{x:g}")


def _said(respect: Respect) -> str:
    return f"{respect.title}, {'more' if respect.better == 'up' else 'less'} is better"


def _number(axes: "Axes", front: Front) -> None:
    """Numbers beside their points, each where it covers no point, no other number and least of a line."""
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    at = axes.transData.transform([point.values[:2] for point in front.points])
    inside = axes.get_window_extent()
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in at]
    for place in front.best:
        x, _, *_ = front.points[place].values
        if band := front.points[place].band:
            taken.append(Bbox(axes.transData.transform([(x, band[0]), (x, band[1])])).padded(1))
    for line in (front.best if len(front.respects) == 2 else (), front.fewer):
        for a, b in pairwise(line):
            steps = [at[a] + (at[b] - at[a]) * step / 40 for step in range(41)]
            taken += [Bbox.from_bounds(x - scale, y - scale, 2 * scale, 2 * scale) for x, y in steps]
    directions = ((0, 1), (-1, 1), (1, 1), (1, -1), (0, -1), (-1, -1), (1, 0), (-1, 0))
    for place, mark in front.marks.items():
        width, height = (0.62 * len(mark) + 0.2) * MARK_SIZE * scale, MARK_SIZE * scale
        best, fewest = (0.0, float(REACH[0])), 99.0
        for reach in REACH:
            for dx, dy in directions:
                x, y = at[place] + (dx * reach * scale, dy * reach * scale)
                box = Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
                hits = sum(box.overlaps(other) for other in taken) + 5 * (not inside.fully_containsx(box.x0))
                hits += 5 * (not (inside.fully_containsy(box.y0) and inside.fully_containsy(box.y1)))
                if hits < fewest:
                    best, fewest = (dx * reach, dy * reach), hits
        x, y = at[place] + (best[0] * scale, best[1] * scale)
        taken.append(Bbox.from_bounds(x - width / 2, y - height / 2, width, height))
        far = max(map(abs, best)) > REACH[0]
        point_x, point_y, *_ = front.points[place].values
        axes.annotate(
            mark, (point_x, point_y), xytext=best, textcoords="offset points", ha="center", va="center", zorder=5,
            fontsize=MARK_SIZE, arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if far else None,
        )  # fmt: skip
