"""How a configuration looks in every figure of a table, and what all figures share.

Colours are Okabe and Ito's, which readers with any colour vision can tell apart. Where colour for the parts of a
method and line style for its schedule tell all configurations apart, they mean that; otherwise rows take the colours
one after the other, and beyond seven the line style changes as well.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.core.store import write_atomically
from cq.report.contexts import parts_of, schedule_of
from cq.report.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = "osD^vPX*"  # one more than colours: colour and marker together repeat only after 56 rows
DPI = 112.0  # dots an inch of a file
EXACT = 64  # colours that a palette keeps as they are
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
    "savefig.dpi": DPI,
}
MARGIN: Any = {"bbox_inches": "tight", "pad_inches": 0.12}  # of a file
LABEL_WIDTH = 26  # characters in a line of a row's label


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colour, line style and marker of one configuration, whatever its budget."""

    colour: str
    dash: Any
    marker: str


Looks = Mapping[tuple[str, str], Look]


def looks_of(rows: Sequence[Row]) -> Looks:
    """(label, model) to its look, for all rows of a table; the same in every figure of it."""
    firsts = {(row.label, row.model): row.records[0] for row in rows}
    parts = list(dict.fromkeys((key[1], parts_of(record)) for key, record in firsts.items()))
    schedules = list(dict.fromkeys(schedule_of(record) for record in firsts.values()))
    places = {
        key: (parts.index((key[1], parts_of(record))), schedules.index(schedule_of(record)))
        for key, record in firsts.items()
    }
    meaning = len(set(places.values())) == len(firsts) and len(parts) <= len(PALETTE) and len(schedules) <= len(DASHES)
    if not meaning:
        places = {key: (place % len(PALETTE), place // len(PALETTE)) for place, key in enumerate(firsts)}
    return {
        key: Look(
            colour=PALETTE[colour],
            dash=DASHES[dash % len(DASHES)],
            marker=MARKERS[dash if meaning else place % len(MARKERS)],
        )
        for place, (key, (colour, dash)) in enumerate(places.items())
    }


def look(looks: Looks, row: Row) -> Look:
    return looks[(row.label, row.model)]


def wrapped(label: str, width: int = LABEL_WIDTH) -> str:
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False))


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot, no window, no global state
    return figure


def settled(figure: "Figure") -> "Figure":
    """The figure with its layout solved once and rounded: the solver's last bits differ from run to run.

    An SVG names what it clips by all bits of its place.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(value, 6) for value in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
    return figure


def save_png(figure: "Figure", path: Path, *, dpi: float = DPI) -> None:
    write_atomically(path, png_bytes(figure, dpi=dpi))


def png_bytes(figure: "Figure", *, dpi: float = DPI) -> bytes:
    """With a palette of 256 colours, which makes it less than half as large.

    The most frequent ones are kept as they are: beside images of many colours a marker's would become a near one.
    """
    import numpy as np
    from PIL import Image

    with BytesIO() as whole, BytesIO() as small:
        figure.savefig(whole, format="png", dpi=dpi, **MARGIN)
        with Image.open(whole) as drawn:
            image = drawn.convert("RGB")
        packed = np.asarray(image).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
        colours, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
        rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
        frequent = rgb[np.argsort(-counts, kind="stable")[:EXACT]]
        others = np.array(image.quantize(256 - len(frequent)).getpalette()).reshape(-1, 3)[: 256 - len(frequent)]
        palette = np.concatenate([frequent, others])
        # The nearest one by distance: Pillow's own look-up takes four levels of a colour for one.
        nearest = np.concatenate([
            np.square(some[:, None] - palette).sum(2).argmin(1) for some in np.array_split(rgb, 1 + len(rgb) // 4096)
        ])  # fmt: skip
        indexed = Image.fromarray(nearest[inverse].reshape(packed.shape).astype(np.uint8), "P")
        indexed.putpalette(palette.astype(np.uint8).tobytes())
        indexed.save(small, "PNG", optimize=True)
        return small.getvalue()


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nobody's matplotlibrc changes a figure
        matplotlib.rcParams.update(STYLE)
        yield
