"""Seeds to images, batch by batch; every finished batch is on disk, so a killed run goes on where it stopped."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cq.core.values import Batch, Count, Distinct

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from torch import Tensor

    from cq.core.acceleration import Acceleration
    from cq.core.artifacts import SampleSet
    from cq.core.denoiser import Denoiser
    from cq.models.diffusion import DiffusionModel

log = logging.getLogger(__name__)

Told = Callable[[float, int], None]  # so many images are drawn, of so many that were missing; calls are parts of one


def untold(images: float, of: int) -> None:
    """Nobody asks how far it is."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How many images of which classes, in what batches.

    labels: balanced (image i has class i modulo the classes) or drawn (by each image's own seed).
    classes: the class indices to draw from, None for all. trace: images whose latents are kept at every call.
    """

    num_images: Count
    batch_size: Batch
    num_steps: Count
    labels: Literal["balanced", "drawn"]
    classes: Annotated[tuple[int, ...] | None, Distinct()]
    trace: int

    def __post_init__(self) -> None:
        for key in ("num_images", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"sample.{key}={getattr(self, key)}: must be at least 1.")
        if self.classes == ():
            raise ValueError("sample.classes=[]: holds no class to draw. Name some, or null for all.")
        if self.trace < 0:
            raise ValueError(f"sample.trace={self.trace}: must be 0 or more.")

    def check(self, num_classes: int) -> None:
        """Raise ValueError for a class the model does not have."""
        if self.classes and num_classes == 0:
            raise ValueError(
                f"sample.classes={list(self.classes)}: this model is unconditional and has no classes. "
                "Set sample.classes=null."
            )
        for index in self.classes or ():
            if not 0 <= index < num_classes:
                raise ValueError(
                    f"sample.classes={list(self.classes or ())}: class {index} is unknown; this model has "
                    f"{num_classes} classes, 0 to {num_classes - 1}."
                )

    def lighter(self, step: str) -> "Sample | None":
        """With half the batch; None at a batch of one."""
        batch = min(self.batch_size, self.num_images)
        return None if batch == 1 else replace(self, batch_size=batch // 2)

    def starts(self, seeds: tuple[int, ...]) -> range:
        """Where each batch of `seeds` begins."""
        return range(0, len(seeds), self.batch_size)

    def labels_for(self, seeds: tuple[int, ...], num_classes: int) -> "Tensor":
        """int64 [len(seeds)]; -1 for unconditional models."""
        import torch

        from cq.core.seeding import drawn_labels

        if num_classes == 0:
            return torch.full((len(seeds),), -1, dtype=torch.int64)
        classes = self.classes or tuple(range(num_classes))
        if self.labels == "balanced":
            return torch.tensor([classes[i % len(classes)] for i in range(len(seeds))])
        return drawn_labels(seeds, classes)


def generate(
    model: "DiffusionModel",
    denoiser: "Denoiser",
    *,
    sample: Sample,
    seeds: tuple[int, ...],
    acceleration: "Acceleration",
    shards: Path,
    describe: str,
    told: Told = untold,
) -> "SampleSet":
    """The images of `seeds`. Each batch leaves a shard; one that is there already, intact, is not drawn again."""
    import torch

    from cq.core.artifacts import SampleSet

    parts = list(
        draw(
            model, denoiser, sample=sample, seeds=seeds, starts=sample.starts(seeds), acceleration=acceleration,
            shards=shards, describe=describe, told=told,
        )
    )  # fmt: skip
    return SampleSet(
        seeds=seeds,
        images_NCHW=torch.cat([part["images"] for part in parts]),
        latents_NCHW=torch.cat([part["latents"] for part in parts]),
        labels_N=sample.labels_for(seeds, model.component.num_classes),
        trace_TNCHW=torch.cat([part["trace"] for part in parts], dim=1),
    )


def draw(
    model: "DiffusionModel",
    denoiser: "Denoiser",
    *,
    sample: Sample,
    seeds: tuple[int, ...],
    starts: Sequence[int],
    acceleration: "Acceleration",
    shards: Path,
    describe: str,
    told: Told = untold,
) -> "Iterator[dict[str, Tensor]]":
    """The shards of the batches that begin at `starts`, one after the other; those that are missing are drawn.

    A batch is the same images, bit for bit, whoever draws it and whatever else is drawn. told: after every call.
    """
    import torch
    from tqdm import tqdm

    from cq.core.denoise import denoise
    from cq.core.seeding import initial_noise
    from cq.core.shards import present

    labels_N = sample.labels_for(seeds, model.component.num_classes)
    done = 0  # images that were drawn here

    def batch(start: int, progress: Any) -> "dict[str, Tensor]":
        nonlocal done
        rows = slice(start, start + sample.batch_size)
        x_NCHW = initial_noise(seeds[rows], model.component.latent_shape).to(model.device)
        keep = max(0, min(sample.trace - start, len(x_NCHW)))
        trace: list[Tensor] = []
        for step in denoise(
            denoiser,
            model.noise_scheduler(sample.num_steps),
            x_NCHW,
            cond=model.condition(labels_N[rows].to(model.device)),
            acceleration=acceleration,
        ):
            x_NCHW = step.x_NCHW
            trace.append(x_NCHW[:keep].clone())
            progress.update()
            told(done + len(x_NCHW) * len(trace) / acceleration.num_calls, missing)
        done += len(x_NCHW)
        return {"images": model.decode(x_NCHW), "latents": x_NCHW, "trace": torch.stack(trace)}

    paths = {start: shards / f"batch_{start:07d}.safetensors" for start in starts}
    there = {start for start, path in paths.items() if path.exists()}
    missing = sum(len(seeds[start : start + sample.batch_size]) for start in paths.keys() - there)
    told(0, missing)
    if there:
        log.info("%s: %d of %d batches are there already", describe, len(there), len(paths))
    with tqdm(total=len(paths) * acceleration.num_calls, desc=describe, unit="call", mininterval=1.0) as progress:
        for start, path in paths.items():
            yield present(path, partial(batch, start, progress))
            if start in there:
                progress.update(acceleration.num_calls)
