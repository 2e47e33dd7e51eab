"""Figures of a table: schedules, error by step, images row by row, quality against cost, and all in one.

Colours are Okabe and Ito's, which readers with any colour vision can tell apart; beyond seven rows the line style
changes as well. The same records and the same matplotlib give the same bytes.
"""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.record import RunRecord
from cq.report.metrics import Column
from cq.report.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":")
MARKERS = "osD^vPX*"  # one more than colours: colour and marker together repeat only after 56 rows
CURVE = "latent_error_fp"
STYLE: Any = {
    "svg.hashsalt": "cq",  # ids in an SVG are random otherwise
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that no machine's own fonts change the figure
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}
LABEL_WIDTH = 26  # characters in a line of a row's label


def write_figures(table: Table, folder: Path, *, thumbnails: Path) -> list[Path]:
    """Write `<table>_<figure>.png` and `.svg` for each figure that the records can fill; the paths written.

    thumbnails: the folder to which the records' thumbnail paths are relative.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    makers: dict[str, Callable[[], Figure | None]] = {
        "schedules": lambda: schedule_figure(table.rows),
        "error": lambda: error_figure(table.rows),
        "images": lambda: image_figure(table.rows, thumbnails=thumbnails),
        "tradeoff": lambda: tradeoff_figure(table.rows, table.metrics),
        "overview": lambda: overview_figure(table.rows, thumbnails=thumbnails, title=table.title),
    }
    for name, make in makers.items():
        with _style():
            figure = make()
            if figure is None:
                continue
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
                path = folder / f"{table.name}_{name}{suffix}"
                figure.savefig(path, metadata=metadata, bbox_inches="tight", pad_inches=0.12)
                files.append(path)
    return files


def schedule_figure(rows: Sequence[Row]) -> "Figure | None":
    """One line a configuration, with a tick at every call on which the whole network runs; None without schedules."""
    shown = _with_schedule(rows)
    return _one_axes(shown, lambda axes: _draw_schedules(axes, rows, shown), height=0.55 + 0.42 * len(shown))


def error_figure(rows: Sequence[Row]) -> "Figure | None":
    """Relative error of the latents against full precision after each call, mean over seeds; None without curves."""
    shown = _with_curve(rows)
    return _one_axes(shown, lambda axes: _draw_errors(axes, rows, shown, legend="beside"), height=3.4)


def image_figure(rows: Sequence[Row], *, thumbnails: Path) -> "Figure | None":
    """The first images of each configuration, same seeds in one column; None without thumbnails."""
    shown = _with_images(rows, thumbnails)
    if not shown:
        return None
    figure = _figure(7.2, sum(_strip_height(path, 5.2) + 0.1 for _, path in shown))
    for axes, (row, path) in zip(_column_of_axes(figure, shown), shown, strict=True):
        _draw_strip(axes, row, path)
    return figure


def tradeoff_figure(rows: Sequence[Row], metrics: Sequence[Column]) -> "Figure | None":
    """Quality (the table's first metric) against counted BOPs a call, with spread or interval; None without both."""
    for column in metrics:
        shown = [row for row in rows if column.key in row.scores and "bops_mean" in row.costs]
        if shown:
            return _one_axes(shown, partial(_draw_tradeoff, rows=rows, shown=shown, column=column), height=3.4)
    return None


def overview_figure(rows: Sequence[Row], *, thumbnails: Path, title: str) -> "Figure | None":
    """Images row by row on the left, schedules and error by call on the right; None where one of the three is missing.

    The schedules name the colours, so that the error needs a legend of its own only where colours come twice.
    """
    images, schedules, curves = _with_images(rows, thumbnails), _with_schedule(rows), _with_curve(rows)
    if not (images and schedules and curves):
        return None
    strips = sum(_strip_height(path, 5.8) + 0.12 for _, path in images)
    crowded = len(rows) > len(PALETTE)
    lower = min(3.0, max(2.0, 0.42 * strips)) + (0.19 * len(curves) if crowded else 0.0)
    height = max(strips, 0.9 + 0.34 * len(schedules) + lower)
    figure = _figure(13.6, height + 0.7)
    panels: Any = figure.subfigures(1, 2, width_ratios=(7.6, 6.0), wspace=0.02)
    left, right = panels
    for axes, (row, path) in zip(_column_of_axes(left, images), images, strict=True):
        _draw_strip(axes, row, path)
        if row is images[0][0]:
            axes.set_title("One configuration a row, one seed a column")
    upper_axes, lower_axes = right.subplots(2, 1, height_ratios=(height - lower, lower))
    _draw_schedules(upper_axes, rows, schedules)
    _draw_errors(lower_axes, rows, curves, legend="below" if crowded else "none")
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def _draw_schedules(axes: "Axes", rows: Sequence[Row], shown: Sequence[Row]) -> None:
    for place, row in enumerate(shown):
        schedule = _first(row).schedule
        colour = _look(rows, row)[0]
        calls, refreshes = schedule["num_calls"], list(schedule["refresh_calls"])
        axes.hlines(place, -0.5, calls - 0.5, color="#DDDDDD", linewidth=1, zorder=1)
        axes.vlines(refreshes, place - 0.3, place + 0.3, color=colour, linewidth=_tick_width(calls), zorder=2)
        share, beside = f"{len(refreshes)} of {calls}", axes.get_yaxis_transform()
        axes.text(1.01, place, share, transform=beside, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [_wrapped(row.title) for row in shown])
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-1, max(_first(row).schedule["num_calls"] for row in shown))
    axes.set_xlabel("call of the denoiser (0 is the noisiest)")
    axes.set_title("Calls on which the whole network runs")


def _draw_errors(axes: "Axes", rows: Sequence[Row], shown: Sequence[Row], *, legend: str) -> None:
    for row in shown:
        colour, dash, _ = _look(rows, row)
        curve = _curve(row)
        # A logarithmic axis has no place for an error of exactly zero, such as before the first reused map.
        points = [(call, value) for call, value in enumerate(curve) if value > 0 and math.isfinite(value)]
        label = _wrapped(row.title, 34)
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, linewidth=1.6, label=label)
    axes.set_yscale("log")
    axes.grid(axis="y", which="major", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-1, max(len(_curve(row)) for row in shown))
    axes.set_xlabel("call of the denoiser (0 is the noisiest)")
    axes.set_ylabel("relative error of the latents")
    axes.set_title("Error against full precision, same seeds")
    if legend == "beside":
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    elif legend == "below":
        axes.legend(loc="upper center", bbox_to_anchor=(0.42, -0.22), ncols=2, frameon=False, fontsize=8)


def _draw_tradeoff(axes: "Axes", rows: Sequence[Row], shown: Sequence[Row], column: Column) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    for row in shown:
        colour, _, marker = _look(rows, row)
        stat = row.scores[column.key]
        low, high = stat.band
        axes.errorbar(
            row.costs["bops_mean"].mean, stat.mean, yerr=[[max(0.0, stat.mean - low)], [max(0.0, high - stat.mean)]],
            color=colour, marker=marker, markersize=6.5, linestyle="none", capsize=3, label=_wrapped(row.title, 34),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # costs within one decade may hold no power of ten
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel("BOPs a call, mean (counted)")
    axes.set_ylabel(column.title)
    axes.set_title("Quality against cost")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_strip(axes: "Axes", row: Row, path: Path) -> None:
    strip = _strip(path)
    axes.imshow(strip, interpolation="nearest", cmap="gray", vmin=0, vmax=1)  # PNG pixels arrive as 0..1
    height, width = strip.shape[:2]
    if width % height == 0:  # squares without gaps between them: part them, or neighbours read as one image
        axes.vlines([x - 0.5 for x in range(height, width, height)], -0.5, height - 0.5, color="white", linewidth=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_ylabel(_wrapped(row.title), rotation=0, ha="right", va="center", labelpad=6, fontsize=8.5)


def _with_schedule(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.ok and _first(row).schedule]


def _with_curve(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if any(value > 0 and math.isfinite(value) for value in _curve(row))]


def _with_images(rows: Sequence[Row], thumbnails: Path) -> list[tuple[Row, Path]]:
    """Rows that have a strip. Raises ValueError where a record names one that is not there."""
    found = []
    for row in rows:
        if row.ok and _first(row).thumbnails:
            path = thumbnails / _first(row).thumbnails
            if not path.exists():
                raise ValueError(
                    f"thumbnails={_first(row).thumbnails!r} of row {row.label!r}: no such file as {path}. "
                    "Keep it beside the record file, or write the report without figures."
                )
            found.append((row, path))
    return found


def _first(row: Row) -> RunRecord:
    """The run that is drawn: that of the lowest seed, so that rows show the same images."""
    return min(row.ok, key=lambda record: record.seed)


def _curve(row: Row) -> list[float]:
    """Error after each call, mean over the seeds; [] without a curve, the first seed's where the lengths differ."""
    curves = [list(record.scores[CURVE]["curve"]) for record in row.ok if CURVE in record.scores]
    if not curves or len({len(curve) for curve in curves}) > 1:
        return curves[0] if curves else []
    return [math.fsum(values) / len(values) for values in zip(*curves, strict=True)]


def _look(rows: Sequence[Row], row: Row) -> tuple[str, str, str]:
    """Colour, line style and marker of a row; the same in every figure of a table."""
    place = next(place for place, other in enumerate(rows) if other is row)
    turn = place // len(PALETTE)
    return PALETTE[place % len(PALETTE)], DASHES[turn % len(DASHES)], MARKERS[place % len(MARKERS)]


def _wrapped(label: str, width: int = LABEL_WIDTH) -> str:
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False))


def _tick_width(calls: int) -> float:
    return min(2.2, 260 / calls)


def _strip(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)


def _strip_height(path: Path, width: float) -> float:
    """Height in inches of a strip drawn `width` inches wide."""
    height_px, width_px = _strip(path).shape[:2]
    return float(width * height_px / width_px)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot, no window, no global state
    return figure


def _one_axes(shown: Sequence[Row], draw: "Callable[[Axes], None]", *, height: float) -> "Figure | None":
    if not shown:
        return None
    figure = _figure(7.6, height)
    draw(figure.subplots())
    return figure


def _column_of_axes(figure: Any, shown: Sequence[tuple[Row, Path]]) -> "list[Axes]":
    ratios = [_strip_height(path, 1.0) for _, path in shown]
    return list(figure.subplots(len(shown), 1, squeeze=False, height_ratios=ratios)[:, 0])


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nobody's matplotlibrc changes a figure
        matplotlib.rcParams.update(STYLE)
        yield
