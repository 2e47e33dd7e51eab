"""Images of two runs one above the other, drawn from the same seeds, and where they differ.

Legend of shape suffixes: N image, C channel, H and W space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cq.report.image_pairs import BASELINE, CHUNK, chunks, images_folder, seeds_in
from cq.report.looks import new_figure, settled, wrapped
from cq.report.pick import Run
from cq.run.ledger import THUMBNAILS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

FIRST, MOST = 6, 4  # shown: the first images, and those that differ most
IMAGES = "images_NCHW"
BRIGHT = 255  # what the largest difference of an image is drawn as, in half of them


@dataclass(frozen=True, kw_only=True)
class Images:
    """rows: name to uint8 [N, H, W, C], the same image in one place. names: of the images. source: where they lay."""

    rows: "dict[str, np.ndarray]"
    names: tuple[str, ...]
    source: str


def images_of(pairs: Sequence[tuple[Run, Run]]) -> Images | None:
    """Of the first seed that both runs have: from the store, or from the strips where that no longer holds them.

    None where neither does, or where the images are of two sizes.
    """
    for a, b in pairs:
        folders = images_folder(a), images_folder(b)
        if folders[0] is not None and folders[1] is not None:
            return _stored(folders[0], folders[1], a.folder(BASELINE), f"the store, seed {a.record.seed}")
    for a, b in pairs:
        if a.strip is not None and b.strip is not None:
            return _strips(a, b)
    return None


def side_by_side(images: Images, headings: Sequence[str], title: str) -> "Figure":
    """A row of full precision where it is there, then A, B, and |A - B|, brighter, so that most images show theirs."""
    import numpy as np

    a, b = images.rows["A"].astype(int), images.rows["B"].astype(int)
    apart = np.abs(a - b)
    gain = max(1, BRIGHT // max(1, int(np.median(apart.reshape(len(apart), -1).max(1)))))
    rows = {**images.rows, f"|A - B| x {gain}": (apart * gain).clip(0, BRIGHT).astype(np.uint8)}
    num, height, width, channels = a.shape
    gap = max(1, width // 12)
    figure = new_figure(11.2, len(rows) * 9.4 * height / (num * (width + gap)) + 0.6 + 0.2 * len(headings))
    column = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, row) in zip(column, rows.items(), strict=True):
        between = np.full((height, gap, channels), BRIGHT, np.uint8)
        strip = np.concatenate([part for image in row for part in (image, between)][:-1], axis=1)
        axes.imshow(strip.squeeze(), interpolation="nearest", cmap="gray", vmin=0, vmax=BRIGHT)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(wrapped(name, 16), rotation=0, ha="right", va="center", labelpad=6, fontsize=9)
    column[0].set_xticks([place * (width + gap) + width / 2 for place in range(num)], images.names, fontsize=8)
    column[0].tick_params(labeltop=True, labelbottom=False, length=0)
    said = "\n".join([title, *headings])
    figure.suptitle(said, fontsize=9, x=0.01, ha="left")
    return settled(figure)


def _stored(a: Path, b: Path, baseline: Path | None, source: str) -> Images | None:
    import numpy as np

    seeds = seeds_in(a)
    if seeds != seeds_in(b) or _shape(a) != _shape(b):
        return None
    apart = np.concatenate(
        [
            np.abs(ours.numpy().astype(int) - theirs.numpy()).reshape(len(ours), -1).mean(1)
            for ours, theirs in zip(chunks(a, IMAGES), chunks(b, IMAGES), strict=True)
        ]
    )
    most = [place for place in np.argsort(-apart, kind="stable").tolist() if place >= FIRST and apart[place]][:MOST]
    places = [*range(min(FIRST, len(seeds))), *sorted(most)]
    sets = {"A": a, "B": b}
    if baseline is not None and baseline not in (a, b) and seeds_in(baseline) == seeds:
        sets = {"full precision": baseline, **sets}
    return Images(
        rows={name: _picked(folder, places) for name, folder in sets.items()},
        names=tuple(f"seed {seeds[place]}" + "\nfar apart" * (place in most) for place in places),
        source=source,
    )


def _shape(folder: Path) -> tuple[int, ...]:
    return tuple(next(chunks(folder, IMAGES)).shape[1:])


def _picked(folder: Path, places: Sequence[int]) -> "np.ndarray":
    """uint8 [N, H, W, C]."""
    import numpy as np

    found: dict[int, np.ndarray] = {}
    for number, chunk in enumerate(chunks(folder, IMAGES)):
        inside = [place for place in places if place // CHUNK == number]
        found |= {place: chunk[place % CHUNK].permute(1, 2, 0).numpy() for place in inside}
    return np.stack([found[place] for place in places])


def _strips(a: Run, b: Run) -> Images | None:
    """The images of two strips; None where these do not hold as many, as large."""
    import numpy as np
    from PIL import Image

    counts = [min(THUMBNAILS, run.record.config["sample"]["num_images"]) for run in (a, b)]
    rows = []
    for run, num in zip((a, b), counts, strict=True):
        assert run.strip is not None
        with Image.open(run.strip) as file:
            strip = np.atleast_3d(np.asarray(file))
        rows.append(np.stack(np.split(strip, num, axis=1)) if strip.shape[1] % num == 0 else strip[None])
    if rows[0].shape != rows[1].shape:
        return None
    return Images(
        rows=dict(zip("AB", rows, strict=True)),
        names=tuple(f"image {place}" for place in range(len(rows[0]))),
        source=f"strips of the first images, seed {a.record.seed}, for the store does not have both image sets",
    )
