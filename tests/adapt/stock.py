"""The stock pipelines of the bundled models, and what draws as one where diffusers has none.

`python -m tests.adapt.stock FOLDER` loads, applies and draws the bundles in FOLDER, as a process that knows nothing of
how they were made.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import cq
from cq.core.seeding import image_seeds
from cq.models.locate import locate
from experiments.zoo.drawing import ClassConditional, Latents, Pixels, TextToImage

IMAGES, STEPS = 2, 6
MODELS = ("ldm_mini", "ldm_uncond_mini", "ddpm_mini", "dit_mini", "sd_mini")


@dataclass(frozen=True)
class ClassEmbedded:
    """LDM's loop with guidance by hand, for no pipeline of diffusers opens a class embedder. Image i has class i."""

    folder: Path
    num_steps: int
    guidance: float

    @cached_property
    def pipeline(self) -> Any:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        from cq.models.class_embedder import ClassEmbedder

        return SimpleNamespace(
            unet=UNet2DConditionModel.from_pretrained(self.folder, subfolder="unet").eval(),
            vae=AutoencoderKL.from_pretrained(self.folder, subfolder="vae").eval(),
            embedder=ClassEmbedder.from_pretrained(self.folder / "class_embedder").eval(),
            scheduler=DDIMScheduler.from_pretrained(self.folder, subfolder="scheduler"),
        )

    @torch.no_grad()
    def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
        pipe = self.pipeline
        pipe.scheduler.set_timesteps(self.num_steps)
        x = torch.stack([torch.randn(4, 8, 8, generator=each) for each in generators])
        context = pipe.embedder(torch.tensor([pipe.embedder.null_class] * len(x) + list(images)))
        for timestep in pipe.scheduler.timesteps:
            null, conditional = pipe.unet(torch.cat([x, x]), timestep, context).sample.chunk(2)
            x = pipe.scheduler.step(null + self.guidance * (conditional - null), timestep, x).prev_sample
        drawn: Tensor = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
        return (drawn / 2 + 0.5).clamp(0, 1)


def stock(model: str, steps: int = STEPS) -> Any:
    """What draws as diffusers does; its `pipeline` is the stock one."""
    folder = locate(f"zoo:{model}")
    kinds: dict[str, Callable[[], Any]] = {
        "ldm_mini": lambda: ClassEmbedded(folder, steps, 1.5), "dit_mini": lambda: ClassConditional(folder, steps, 1.5),
        "ldm_uncond_mini": lambda: Latents(folder, steps), "ddpm_mini": lambda: Pixels(folder, steps),
        "sd_mini": lambda: TextToImage(folder, steps, 3.0),
    }  # fmt: skip
    return kinds[model]()


def images(drawing: Any, count: int = IMAGES) -> Tensor:
    """Images uint8 [N, C, H, W] of cq's evaluation seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in image_seeds("evaluation", run_seed=0, count=count)]
    pixels: Tensor = (drawing.draw(range(count), generators) * 255).round().to(torch.uint8)
    return pixels.contiguous()


def main(root: Path) -> None:
    """Draw every bundle under `root`: ROOT/NAME is of the model that the name begins with."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        drawing = stock(folder.name.partition("-")[0])
        cq.load(folder).apply(drawing.pipeline)
        found[folder.name] = images(drawing)
    save_file(found, root / "drawn.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
