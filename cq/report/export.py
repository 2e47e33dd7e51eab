"""The images of a run as files: a PNG each, a grid of the first, and what they are of."""

import json
import os
import shutil
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.core.failures import writing
from cq.report.pick import Run

if TYPE_CHECKING:
    from torch import Tensor

IN_GRID = 64  # images
ORIGIN = "origin.json"


def export(run: Run, samples: Path, out: Path) -> int:
    """Write the images of `run` to the folder `out`, whole or not at all, and return how many they are.

    samples: the folder of their artefact. Each pixel is the one that was scored; image i is `i.png`, with five digits.
    Raises ValueError where `out` holds something, or where the artefact holds other images than the record says.
    """
    from PIL import Image

    from cq.core.artifacts import SampleSet, digest_of_tensor

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"OUT={out}: is there already, and is no empty folder. Name another one.")
    found = SampleSet.load(samples)
    images_NCHW = found.images_NCHW
    if (digest := digest_of_tensor(images_NCHW)) != run.record.images_digest:
        raise ValueError(
            f"{samples}: holds the images {digest[:12]}, and the record those of {run.record.images_digest[:12]}. "
            "Run it again with force=true, or name the run that drew these."
        )
    names = [f"{number:05d}.png" for number in range(len(images_NCHW))]
    temporary = out.absolute().with_name(f"{out.absolute().name}.{os.getpid()}.tmp")
    try:
        with writing(out):
            temporary.mkdir(parents=True)
            for name, image_CHW in zip(names, images_NCHW, strict=True):
                Image.fromarray(_pixels(image_CHW)).save(temporary / name)
            Image.fromarray(_pixels(_grid(images_NCHW[:IN_GRID]))).save(temporary / "grid.png")
            images = [
                {"file": name, "seed": seed, "label": None if label < 0 else label}
                for name, seed, label in zip(names, found.seeds, found.labels_N.tolist(), strict=True)
            ]
            (temporary / ORIGIN).write_text(json.dumps({**_origin(run), "images": images}, indent=1) + "\n")
            os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(names)


def _origin(run: Run) -> dict[str, Any]:
    """What a reader of the files must know to trust or to make them again."""
    record = run.record
    asked = ("experiment", "label", "seed", "overrides", "choices", "budget", "model", "config_digest", "images_digest")
    made = ("commit", "clean_tree", "date", "device", "versions", "status")
    return {
        "record_file": str(run.file), "record_number": run.number,
        **{key: getattr(record, key) for key in (*asked, *made)},
        "protocol": record.config.get("protocol"),
        "scores": {name: score["value"] for name, score in record.scores.items()},
    }  # fmt: skip


def _grid(images_NCHW: "Tensor") -> "Tensor":
    """The images side by side, in rows as long as there are rows, [C, H, W]; what is left over is white."""
    count, channels, height, width = images_NCHW.shape
    columns = isqrt(count - 1) + 1
    rows = -(-count // columns)
    grid = images_NCHW.new_full((rows * columns, channels, height, width), 255)
    grid[:count] = images_NCHW
    grid = grid.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return grid.reshape(channels, rows * height, columns * width)


def _pixels(image_CHW: "Tensor") -> Any:
    """[H, W] of grey values, else [H, W, C], as Pillow has it."""
    return (image_CHW[0] if len(image_CHW) == 1 else image_CHW.permute(1, 2, 0)).numpy()
