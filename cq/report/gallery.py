"""The figures of a table, and the page that shows them: what is written is what the page shows.

The same records, matplotlib and Pillow give the same bytes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cq.report.budgets import choose
from cq.report.coupling import couplings
from cq.report.differences import TITLE as DIFFERENCES
from cq.report.differences import difference_figure
from cq.report.figures import (
    ERRORS,
    SCHEDULES,
    error_figure,
    image_figure,
    overview_figure,
    schedule_figure,
    with_images,
)
from cq.report.looks import DPI, MARGIN, looks_of, save_png, style
from cq.report.panels import coupling_figure, preparation_figure
from cq.report.sweeps import interval_figure, tradeoff_figure
from cq.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUPLING = "Loss of each technique alone and combined"
COARSE = 84.0  # dots an inch of the overview, which is twice as large as the others
INSIDE = ("schedules", "error", "images")  # what the overview shows side by side
CAPTIONS = {  # of the page
    "overview": "Images, schedules, and error by call",
    "differences": DIFFERENCES,
    "intervals": "Quality by cache interval",
    "tradeoff": "Quality against counted cost",
    "coupling": COUPLING,
    "preparation": "Quality against preparation time",
    "schedules": SCHEDULES,
    "error": ERRORS,
    "images": "Images, one configuration a row and one seed a column",
}


def write_figures(table: Table, folder: Path, *, thumbnails: Path, svg: bool = False) -> list[Path]:
    """Write each figure that the records can fill, and `<table>.md`, the page that shows them; the paths written.

    A figure is `<table>_<figure>.png`; what the page showed before and shows no longer is deleted. Schedules, errors
    and images have figures of their own only where the overview, which holds them, cannot be drawn.
    svg: every figure also as SVG, those three too. thumbnails: the folder to which the records' paths are relative.
    """
    folder.mkdir(parents=True, exist_ok=True)
    looks, chosen = looks_of(table.rows), choose(table.rows)
    makers: dict[str, Callable[[], Figure | None]] = {
        "overview": lambda: overview_figure(chosen, looks, thumbnails=thumbnails, title=table.title),
        "differences": lambda: difference_figure(chosen, thumbnails=thumbnails),
        "intervals": lambda: interval_figure(table, looks),
        "tradeoff": lambda: tradeoff_figure(table, looks),
        "coupling": lambda: coupling_figure(table, couplings(chosen.rows, table.paper), chosen.titled(COUPLING)),
        "preparation": lambda: preparation_figure(table, chosen, looks),
        "schedules": lambda: schedule_figure(chosen, looks),
        "error": lambda: error_figure(chosen, looks),
        "images": lambda: image_figure(chosen, thumbnails=thumbnails),
    }
    shown: list[str] = []
    vectors: list[Path] = []
    for name, make in makers.items():
        inside = name in INSIDE and "overview" in shown
        if inside and not svg:
            continue
        with style():
            figure = make()
            if figure is None:
                continue
            if not inside:
                shown.append(name)
                save_png(figure, folder / f"{table.name}_{name}.png", dpi=COARSE if name == "overview" else DPI)
            if svg:
                vectors.append(folder / f"{table.name}_{name}.svg")
                figure.savefig(vectors[-1], metadata={"Date": None, "Creator": None}, **MARGIN)
    return [*_write_page(table, folder, shown), *vectors]


def _write_page(table: Table, folder: Path, shown: Sequence[str]) -> list[Path]:
    """The page of these figures, and the figures; those of the page before that are not among them are deleted."""
    page = folder / f"{table.name}.md"
    before = re.findall(r"\]\((\w[\w.+-]*\.png)\)", page.read_text()) if page.exists() else []
    files = [f"{table.name}_{name}.png" for name in shown]
    for file in set(before) - set(files):
        (folder / file).unlink(missing_ok=True)
    if not shown:
        page.unlink(missing_ok=True)
        return []
    figures = [f"![{CAPTIONS[name]}]({file})" for name, file in zip(shown, files, strict=True)]
    page.write_bytes("\n\n".join([f"# {table.title}", *figures, ""]).removesuffix("\n").encode())
    return [page, *(folder / file for file in files)]


def strips_shown(table: Table, thumbnails: Path) -> list[Path]:
    """The strips of images that its figures show, as far as they were kept."""
    return [path for _, path in with_images(choose(table.rows).rows, thumbnails) if path is not None]
