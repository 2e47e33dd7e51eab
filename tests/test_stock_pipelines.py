"""`cq model=M` alone draws what the stock pipeline draws from the same folder and noise, for every bundled model.

`python -m tests.test_stock_pipelines` prints how near they are.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.evaluate.fidelity import psnr_db
from cq.models.locate import locate
from cq.models.stable_diffusion import TextModel
from cq.run.components import Components
from cq.run.context import Run
from cq.run.stages.samples import Baseline
from experiments.zoo.drawing import ClassConditional, Latents, Pixels, TextToImage, drawn
from tests.tiny_runs import composed

IMAGES = 2
DEFAULTS = {"ldm_mini": 250, "ldm_uncond_mini": 100, "ddpm_mini": 100, "dit_mini": 50, "sd_mini": 50}


def ours(model: str, root: Path, *overrides: str) -> tuple[Run, Tensor]:
    """What the command records of a run without cache and quantization: its full-precision images."""
    paths = [f"paths.{name}={root}/{name}" for name in ("store", "tracking")]
    small = [f"sample.num_images={IMAGES}", f"sample.batch_size={IMAGES}", "evaluate=fidelity", "latency=none"]
    config, _ = composed([f"model={model}", *small, *paths, f"paths.records={root}/records.jsonl", *overrides])
    run = Run(Components.of(config))
    return run, Baseline(run).drawn(Baseline(run).unaccelerated)().images_NCHW


def ldm_loop(folder: Path, num_steps: int) -> Tensor:
    """LDM's loop with guidance by hand, for no pipeline of diffusers opens a class embedder."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from cq.core.seeding import image_seeds, initial_noise
    from cq.models.class_embedder import ClassEmbedder

    unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    vae: Any = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    embedder = ClassEmbedder.from_pretrained(folder / "class_embedder").eval()
    scheduler: Any = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(num_steps)
    x = initial_noise(image_seeds("evaluation", run_seed=0, count=IMAGES), (4, 8, 8))
    with torch.no_grad():
        context = embedder(torch.tensor([embedder.null_class] * IMAGES + list(range(IMAGES))))
        for timestep in scheduler.timesteps:
            null, conditional = unet(torch.cat([x, x]), timestep, context).sample.chunk(2)
            x = scheduler.step(null + 1.5 * (conditional - null), timestep, x).prev_sample
        images = vae.decode(x / vae.config.scaling_factor).sample
    pixels: Tensor = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels


def stock(model: str, run: Run, work: Path) -> Tensor:
    """The pipeline of diffusers that opens the folder, told nothing but prompts or classes, guidance and steps."""
    folder, steps = locate(f"zoo:{model}"), DEFAULTS[model]
    if model == "ldm_mini":
        return ldm_loop(folder, steps)
    if model == "sd_mini":
        from cq.core.seeding import image_seeds

        assert isinstance(run.model, TextModel)
        generators = [torch.Generator().manual_seed(s) for s in image_seeds("evaluation", run_seed=0, count=IMAGES)]
        pipeline = TextToImage(folder, steps, 3.0).pipeline
        found = pipeline(
            list(run.model.captions(torch.arange(IMAGES))), generator=generators, guidance_scale=3.0, output_type="pt"
        )  # fmt: skip
        pixels: Tensor = (found.images * 255).round().to(torch.uint8)
        return pixels
    kinds: dict[str, Callable[[], Any]] = {
        "dit_mini": lambda: ClassConditional(folder, steps, 1.5),
        "ddpm_mini": lambda: Pixels(folder, steps),
        "ldm_uncond_mini": lambda: Latents(folder, steps),
    }
    return drawn(kinds[model](), num_images=IMAGES, batch_size=IMAGES, run_seed=0, work=work)


def compared(model: str, root: Path) -> Tensor:
    """PSNR of each image against the stock pipeline's, in dB, 100 where they are equal."""
    run, images = ours(model, root)
    assert run.parts.sample.num_steps == DEFAULTS[model]
    return psnr_db(images, stock(model, run, root / "stock"), cap_db=100.0, batch_size=IMAGES)


@pytest.mark.parametrize("model", ["sd_mini", *(pytest.param(m, marks=pytest.mark.slow) for m in DEFAULTS)])
def test_the_model_alone_is_a_command_that_draws_what_the_stock_pipeline_draws(model: str, tmp_path: Path) -> None:
    """Within the rounding of how a batch is put together; the wrong solver is below 40 dB."""
    assert float(compared(model, tmp_path).min()) > 60


if __name__ == "__main__":
    for name in DEFAULTS:
        with tempfile.TemporaryDirectory() as folder:
            told = ", ".join(f"{value:.1f}" for value in compared(name, Path(folder)).tolist())
            print(f"{name}: {told} dB", flush=True)
