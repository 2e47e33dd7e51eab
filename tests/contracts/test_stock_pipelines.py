"""The plain loop is the stock pipeline of each kind, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, PixArtSigmaPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from cq.cache.cut import CutPoint
from cq.core.acceleration import Acceleration
from cq.core.denoise import denoise
from cq.core.seeding import initial_noise
from cq.laws.caching import STEPS, Pair
from cq.models.transformer import TransformerModel
from cq.sampler.ddim import DDIM
from tests.families import component


def load(folders: dict[str, Path], family: str) -> Pair:
    chosen = component(family, folders[family])
    chosen.check()
    return Pair.of(family, chosen.load(), CutPoint())


def test_the_plain_loop_is_the_stock_dit_pipeline_bit_for_bit(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = load(folders, "dit")
    model = pair.model
    assert isinstance(model, TransformerModel)
    seen: list[Tensor] = []
    decode = model.vae.decode

    def keep(latents: Tensor) -> Any:
        seen.append(latents)
        return decode(latents)

    monkeypatch.setattr(model.vae, "decode", keep)
    backbone: Any = model.denoiser.network.backbone
    pipeline = DiTPipeline(transformer=backbone, vae=model.vae, scheduler=model.noise_scheduler(STEPS))
    pipeline.set_progress_bar_config(disable=True)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    pipeline([4, 7], guidance_scale=1.5, num_inference_steps=STEPS, generator=generator, output_type="pt")
    noise = torch.randn(2, 4, 8, 8, generator=again)
    *_, last = denoise(
        model.denoiser, model.noise_scheduler(STEPS), noise, cond=model.condition(torch.tensor([4, 7])),
        acceleration=Acceleration(schedule=pair.every),
    )  # fmt: skip
    assert torch.equal(seen[0] * model.vae.config.scaling_factor, last.x_NCHW)


def test_the_plain_loop_is_the_stock_stable_diffusion_pipeline_bit_for_bit(folders: dict[str, Path]) -> None:
    pair = load(folders, "sd")
    model = pair.model
    pipeline = StableDiffusionPipeline.from_pretrained(folders["sd"])
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise((0, 1), (4, 8, 8))
    prompts = list(model.captions(torch.tensor([0, 1])))
    stock = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=7.5, latents=noise, output_type="latent"
    ).images  # fmt: skip
    assert pair.schedule.num_calls == STEPS + 1
    assert torch.equal(stock, pair.latents(pair.every, seeds=(0, 1)))


STOCK: dict[str, tuple[Any, float, dict[str, Any]]] = {  # pipeline, guidance, and what it would do beside
    "sdxl": (StableDiffusionXLPipeline, 5.0, {"height": 32, "width": 32}),
    "pixart": (PixArtSigmaPipeline, 4.5, {"height": 32, "width": 32, "use_resolution_binning": False,
                                          "clean_caption": False}),
}  # fmt: skip


@pytest.mark.parametrize("family", STOCK)
def test_the_plain_loop_is_the_other_stock_text_pipelines_bit_for_bit(family: str, folders: dict[str, Path]) -> None:
    """With the scheduler that is stored, a DDIM, in both."""
    kind, guidance, options = STOCK[family]
    chosen = component(family, folders[family])
    pair = Pair.of(family, replace(chosen.load(), sampler=DDIM()), CutPoint())
    model = pair.model
    pipeline = kind.from_pretrained(folders[family])
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise((0, 1), (4, 8, 8))
    prompts = list(model.captions(torch.tensor([0, 1])))
    stock = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=guidance, latents=noise, output_type="latent", **options
    ).images  # fmt: skip
    assert torch.equal(stock, pair.latents(pair.every, seeds=(0, 1)))
