"""Images row by row, each over its difference to the full-precision image of the same seed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.report.budgets import Chosen
from cq.report.figures import with_images
from cq.report.looks import new_figure, wrapped
from cq.report.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Images, each over its difference to full precision"
GAIN = 4  # times which a difference is drawn
MOST = 6  # rows; of more the overview has the images, and a page of differences would be too long to look at


def difference_figure(chosen: Chosen, *, thumbnails: Path) -> "Figure | None":
    """Strips of the first images of every row; None without full precision, or with none or over `MOST` beside it."""
    import numpy as np
    from matplotlib.image import imread

    kept = [(row, imread(path)) for row, path in with_images(chosen.rows, thumbnails) if path]
    whole = next((strip for row, strip in kept if _is_full_precision(row)), None)
    others = [(row.title, strip) for row, strip in kept if not _is_full_precision(row)]
    if whole is None or not 0 < len(others) <= MOST or any(strip.shape != whole.shape for _, strip in others):
        return None
    drawn: list[tuple[str, Any]] = [("full precision", whole)]
    for title, strip in others:
        drawn.append((title, np.concatenate([strip, np.clip(GAIN * abs(strip - whole), 0, 1)])))
    heights = [strip.shape[0] / whole.shape[1] for _, strip in drawn]
    figure = new_figure(7.2, 5.4 * sum(heights) + 0.1 * len(drawn) + 0.4)
    panels = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, strip) in zip(panels, drawn, strict=True):
        axes.imshow(strip, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        axes.set_ylabel(wrapped(title), rotation=0, ha="right", va="center", labelpad=6, fontsize=8.5)
    panels[0].set_title(chosen.titled(f"Same seed, same column; differences {GAIN} times"), fontsize=10)
    return figure


def _is_full_precision(row: Row) -> bool:
    choices = row.ok[0].choices
    return all(choices.get(group) == "none" for group in ("schedule", "quantize"))
