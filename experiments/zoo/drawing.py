"""Images from a zoo model through the pipeline that diffusers has for it; nothing of `cq` draws here.

Every finished batch is on disk, so a killed run goes on where it stopped. Image i owns its seed.
Legend of shape suffixes: N image, C channel, H W space.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cq.core.seeding import image_seeds
from cq.core.store import write_atomically
from experiments.zoo.scenes import caption, choices, combinations

log = logging.getLogger(__name__)

Draw = Callable[[range, list[torch.Generator]], Tensor]


class Stock(Protocol):
    """A model folder and how its pipeline is called."""

    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        """Float images [N, C, H, W] in 0..1 of these image numbers, one generator each."""


@dataclass(frozen=True)
class ClassConditional:
    """DiTPipeline. Image i has class i modulo 10."""

    folder: Path
    num_steps: int
    guidance: float

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import DiTPipeline

        return _quiet(DiTPipeline.from_pretrained(self.folder))

    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        found = self.pipeline(
            [i % 10 for i in images], generator=generators, num_inference_steps=self.num_steps,
            guidance_scale=self.guidance, output_type="np",
        )  # fmt: skip
        return _channels_first(found.images)


@dataclass(frozen=True)
class TextToImage:
    """StableDiffusionPipeline. Image i has held-out caption i modulo their number, which is what `which` tells."""

    folder: Path
    num_steps: int
    guidance: float

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import StableDiffusionPipeline

        return _quiet(StableDiffusionPipeline.from_pretrained(self.folder))

    def which(self, images: range) -> Tensor:
        """int64 [N]: the combination that each image was asked to show."""
        held_out = torch.cat(choices("held_out"))
        return held_out[torch.tensor(images) % len(held_out)]

    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        found = self.pipeline(
            [caption(combinations()[k]) for k in self.which(images)], generator=generators,
            num_inference_steps=self.num_steps, guidance_scale=self.guidance, output_type="np",
        )  # fmt: skip
        return _channels_first(found.images)


@dataclass(frozen=True)
class Pixels:
    """DDIMPipeline, eta 0."""

    folder: Path
    num_steps: int

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import DDIMPipeline

        return _quiet(DDIMPipeline.from_pretrained(self.folder))

    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        found = self.pipeline(
            batch_size=len(images), generator=generators, num_inference_steps=self.num_steps, output_type="np"
        )
        return _channels_first(found.images)


@dataclass(frozen=True)
class Latents:
    """LDMPipeline, eta 0, put together here: it opens folders with a VQModel only, but runs with an AutoencoderKL."""

    folder: Path
    num_steps: int

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel

        return _quiet(
            LDMPipeline(
                vqvae=AutoencoderKL.from_pretrained(self.folder, subfolder="vae"),
                unet=UNet2DModel.from_pretrained(self.folder, subfolder="unet"),
                scheduler=DDIMScheduler.from_pretrained(self.folder, subfolder="scheduler"),
            )
        )

    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        found = self.pipeline(
            batch_size=len(images), generator=generators, num_inference_steps=self.num_steps, output_type="np"
        )
        return _channels_first(found.images)


def drawn(stock: Stock, *, num_images: int, batch_size: int, run_seed: int, work: Path) -> Tensor:
    """Images uint8 [num_images, C, H, W], 0..1 mapped to 0..255 and rounded. `work` holds the batches."""
    seeds = image_seeds("evaluation", run_seed=run_seed, count=num_images)
    work.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, num_images, batch_size):
        images = range(start, min(start + batch_size, num_images))
        shard = work / f"{images.start:06d}-{images.stop:06d}.safetensors"
        if not shard.exists():
            generators = [torch.Generator().manual_seed(seeds[i]) for i in images]
            pixels = (stock.draw(images, generators) * 255).round().to(torch.uint8)
            write_atomically(shard, save({"images": pixels.contiguous()}))
            log.info("%d of %d images drawn", images.stop, num_images)
        parts.append(load_file(shard)["images"])
    return torch.cat(parts)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _channels_first(images_NHWC: Any) -> Tensor:
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float()
