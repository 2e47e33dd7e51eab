"""The same images, sooner: full precision, the cache, integers behind the cache. Usage: python experiments/speed/run.py

On the bundled transformer, which any machine can run, in batches of a size at which integers pay. Seconds are measured,
each beside torch's eager float32 without a cache in the same minutes. Draws runs/speed/speed.png.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.report.looks import new_figure, save_png, style
from cq.run.compose import composed, composing
from cq.run.ledger import execute
from cq.run.record import RunRecord

log = logging.getLogger("speed")
OUT = Path("runs/speed")
IMAGES = 10
ASKED = (
    "model=dit_mini", "schedule=dps", "correct@correct.cache=channel_affine", "budget.cache_interval=5",
    "calibrate=demo", "sample=demo", f"sample.num_images={IMAGES}", "evaluate=fidelity", "logger=none",
    "latency=demo", "latency.batch_size=128", f"paths.store={OUT}/store", f"paths.records={OUT}/records.jsonl",
)  # fmt: skip
ROWS = {
    "cached": (),
    "cached, 8 bits in integers": ("quantize=ptq", "correct@correct.quant=channel_affine", "engine=int8"),
}


def recorded(overrides: tuple[str, ...]) -> RunRecord:
    with composing():
        config, choices = composed((*ASKED, *overrides))
    return execute(config, choices, (*ASKED, *overrides))


def images_of(record: RunRecord, stage: str) -> Tensor:
    """uint8 [N, C, H, W]."""
    images: Tensor = SampleSet.load(OUT / "store" / record.folders[stage]).images_NCHW
    return images


def draw(rows: dict[str, Tensor], path: Path) -> None:
    """A row of images under each title."""
    with style():
        figure = new_figure(9.0, 1.35 * len(rows))
        panels: Any = figure.subplots(len(rows), 1)
        for axes, (title, images_NCHW) in zip(panels, rows.items(), strict=True):
            strip = torch.cat(list(images_NCHW), dim=2)
            axes.imshow(strip.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", interpolation="nearest")
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_axis_off()
        save_png(figure, path)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    rows: dict[str, Tensor] = {}
    where = ""
    for name, overrides in ROWS.items():
        record = recorded(overrides)
        measured, psnr = record.measured, record.scores["psnr_fp_db"]["value"]
        assert measured is not None
        seconds, ratio = measured["seconds_per_image"], measured["speedup"]
        beside = f"{seconds:.3f} s an image, {seconds * ratio:.3f} in full precision in the same minutes"
        said = f"{name}: {ratio:.2f} times as fast (measured: {beside}), PSNR {psnr:.1f} dB"
        rows[said] = images_of(record, "samples")
        where = f"{measured['device']}, {measured['threads']} threads, batches of {measured['batch_size']}"
    rows = {"full precision, torch eager": images_of(record, "samples_full_precision"), **rows}
    for title in rows:
        log.info("%s", title)
    draw(rows, OUT / "speed.png")
    log.info("%s; drawn in %s", where, OUT / "speed.png")


if __name__ == "__main__":
    main()
