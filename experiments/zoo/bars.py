"""Measure a zoo model against its quality bars: `python -m experiments.zoo.bars ldm_mini`.

Writes `<out>/<model>.json` and a grid of images `<out>/<model>.png`; exit status 1 where a bar does not hold.
ldm_mini is drawn by our own loop, every other model by the pipeline of diffusers that opens it.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import digest_of_tensor
from cq.core.seeding import image_seeds
from cq.models.folder import folder_digest
from cq.models.latent import LatentDiffusion
from cq.models.locate import locate
from cq.run.compose import component
from cq.sample.generate import Sample, generate
from experiments.zoo.data import fashion_mnist
from experiments.zoo.drawing import ClassConditional, Latents, Pixels, TextToImage, drawn
from experiments.zoo.figures import FrechetOwn, of_classes, of_garments, of_scenes
from experiments.zoo.recipes.classifiers import to_unit

log = logging.getLogger(__name__)

RUN_SEED = 4_095  # the bars draw from a range of their own, apart from every table
BATCH_SIZE = 250


@dataclass(frozen=True)
class Bar:
    """One demand on one figure."""

    figure: str
    says: str
    bound: float
    at_least: bool

    def holds(self, figures: Mapping[str, Any]) -> bool:
        value = float(figures[self.figure])
        return value >= self.bound if self.at_least else value <= self.bound

    def line(self, figures: Mapping[str, Any]) -> str:
        """The bar, the figure and whether it holds, for the log."""
        sign, verdict = ">=" if self.at_least else "<=", "holds" if self.holds(figures) else "DOES NOT HOLD"
        return f"{self.says} {figures[self.figure]:.4f} {sign} {self.bound}: {verdict}"


FRECHET = Bar("frechet_own", "Frechet distance, own features, to the training images", 3.0, at_least=False)
FEATURES = Bar("features_test_accuracy", "feature network's test accuracy", 0.92, at_least=True)
AGREEMENT = Bar("judge_agreement", "share in which the judge finds the class asked for", 0.90, at_least=True)
BARS: Mapping[str, tuple[Bar, ...]] = {
    "ldm_mini": (AGREEMENT, FRECHET, FEATURES),
    "dit_mini": (AGREEMENT, FRECHET, FEATURES),
    "ddpm_mini": (FRECHET, FEATURES),
    "ldm_uncond_mini": (FRECHET, FEATURES),
    "sd_mini": (
        Bar("right_item", "held-out captions: share with the right item", 0.85, at_least=True),
        Bar("right_colour", "held-out captions: share with the right item colour", 0.90, at_least=True),
    ),
}
GUIDANCE = {"dit_mini": 1.5, "sd_mini": 3.0}  # unless the command line says otherwise


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is drawn and judged. guidance: None for the model's own."""

    num_steps: int
    num_images: int
    num_judged: int
    guidance: float | None


def measure(name: str, size: Size, *, work: Path, root: Path) -> tuple[dict[str, Any], Tensor]:
    """The figures of a model and its images. Batches leave shards in `work`, so a rerun goes on.

    Raises ValueError where the model, or a network that judges it, is not in the zoo yet.
    """
    if name == "ldm_mini":
        return measure_ldm_mini(size, work=work, root=root)
    weights = f"zoo:{name}"
    folder, digest = locate(weights), folder_digest(weights)
    guidance = size.guidance or GUIDANCE.get(name)
    shards = work / digest[:16] / "_".join(map(str, (size.num_steps, *([guidance] if guidance else []))))

    def draw(stock: Any) -> Tensor:
        return drawn(
            stock, num_images=size.num_images, batch_size=BATCH_SIZE, run_seed=RUN_SEED, work=shards
        )  # fmt: skip

    if name == "dit_mini":
        assert guidance is not None
        images = draw(ClassConditional(folder, size.num_steps, guidance))
        figures = of_classes(images, torch.arange(len(images)) % 10, num_judged=size.num_judged, root=root)
    elif name == "sd_mini":
        assert guidance is not None
        stock = TextToImage(folder, size.num_steps, guidance)
        images = draw(stock)
        figures = of_scenes(images, stock.which(range(len(images))), num_judged=size.num_judged, root=root)
    else:
        images = draw((Pixels if name == "ddpm_mini" else Latents)(folder, size.num_steps))
        figures = of_garments(images, root)
    head = {"num_steps": size.num_steps, "guidance": guidance, "num_images": len(images)}
    return {**head, **figures, "weights_digest": digest, "images_digest": digest_of_tensor(images)}, images


def measure_ldm_mini(size: Size, *, work: Path, root: Path) -> tuple[dict[str, Any], Tensor]:
    """The same through our own loop, with what the first stage alone costs."""
    model: LatentDiffusion = component("model=ldm_mini")
    loaded = model.load()
    sample = Sample(
        num_images=size.num_images, batch_size=BATCH_SIZE, num_steps=size.num_steps, labels="balanced", classes=None,
        trace=0,
    )  # fmt: skip
    calls = loaded.sampler.num_calls(size.num_steps)
    shards = work / model.weights_digest()[:16] / f"{size.num_steps}"
    shards.mkdir(parents=True, exist_ok=True)
    samples = generate(
        loaded,
        loaded.denoiser,
        sample=sample,
        seeds=image_seeds("evaluation", run_seed=RUN_SEED, count=size.num_images),
        acceleration=Acceleration(schedule=every_call(calls)),
        shards=shards,
        describe="images",
    )
    test_images, _ = fashion_mnist("t10k", root)
    with torch.no_grad():
        latents = [
            loaded.vae.encode(to_unit(part)).latent_dist.mean * loaded.vae.config.scaling_factor
            for part in torch.split(test_images, 500)
        ]
        rebuilt = torch.cat([loaded.decode(part) for part in latents])
    figures = {
        "num_steps": size.num_steps,
        "guidance": model.guidance,
        "num_images": size.num_images,
        **of_classes(samples.images_NCHW, samples.labels_N, num_judged=size.num_judged, root=root),
        "frechet_own_of_rebuilt_test_images": FrechetOwn("zoo:features", "zoo:reference").distance(rebuilt),
        "weights_digest": model.weights_digest(),
        "images_digest": digest_of_tensor(samples.images_NCHW),
    }
    return figures, samples.images_NCHW


def grid(images_NCHW: Tensor, *, columns: int, rows: int, path: Path) -> None:
    """The first images, row by row, magnified fourfold without smoothing, as a PNG; grey or in colour."""
    from PIL import Image

    channels, height, width = images_NCHW.shape[1:]
    cells = images_NCHW[: columns * rows].expand(-1, 3, -1, -1) if channels == 1 else images_NCHW[: columns * rows]
    page = cells.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    page = page.reshape(rows * height, columns * width, 3)
    picture = Image.fromarray(page.numpy()).convert("L" if channels == 1 else "RGB")
    picture.resize((columns * width * 4, rows * height * 4), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.zoo.bars", description=__doc__)
    parser.add_argument("model", choices=list(BARS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--judged", type=int, default=2_000)
    parser.add_argument("--guidance", type=float, help="another scale than the model's own; not for ldm_mini")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs/bars"), help="shards of unfinished runs")
    parser.add_argument("--out", type=Path, default=Path("results/zoo"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.guidance is not None and options.model not in GUIDANCE:
        parser.error(f"--guidance: {options.model} takes none here. Leave it out.")
    size = Size(
        num_steps=options.steps, num_images=options.images, num_judged=options.judged, guidance=options.guidance
    )
    try:
        locate(f"zoo:{options.model}")
    except ValueError as error:
        parser.error(str(error))
    figures, images = measure(options.model, size, work=options.work, root=options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.model}.json").write_text(json.dumps(figures, indent=1) + "\n")
    grid(images, columns=10, rows=6, path=options.out / f"{options.model}.png")
    for bar in BARS[options.model]:
        log.info(bar.line(figures))
    sys.exit(0 if all(bar.holds(figures) for bar in BARS[options.model]) else 1)


if __name__ == "__main__":
    main()
