"""Tiny stock pipelines of every family, with an Acceleration of each and what cq's own loop draws with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    PixArtSigmaPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DModel,
)
from torch import Tensor

import cq
from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Sampler
from cq.core.denoise import denoise
from cq.core.seeding import initial_noise
from cq.engine.fingerprint import fingerprint, noise_of
from cq.models.diffusion import DiffusionModel
from cq.predict.forecast import forecast_of
from cq.predict.taylor import Taylor
from tests.families import component

STEPS = 6
PROMPTS = ("a cat", "a dog", "a red hat")
Options = dict[str, Any]
SIZE: Options = {"height": 32, "width": 32}
KINDS: dict[str, tuple[Any, Options]] = {  # pipeline, and what it would otherwise do beside
    "sd": (StableDiffusionPipeline, {"guidance_scale": 7.5}),
    "sdxl": (StableDiffusionXLPipeline, {"guidance_scale": 5.0, **SIZE}),
    "pixart": (
        PixArtSigmaPipeline,
        {"guidance_scale": 4.5, "use_resolution_binning": False, "clean_caption": False, **SIZE},
    ),
    "dit": (DiTPipeline, {"guidance_scale": 1.5}),
    "ddpm": (DDIMPipeline, {}),
    "uncond": (LDMPipeline, {}),
}  # fmt: skip


@dataclass
class Tiny:
    """One family with a solver. pipe: stock, from the folder that `model` is read from."""

    family: str
    model: DiffusionModel
    pipe: Any

    @staticmethod
    def of(family: str, folder: Path, sampler: Sampler) -> "Tiny":
        model = replace(component(family, folder).load(), sampler=sampler)
        kind, _ = KINDS[family]
        if family == "dit":
            pipe = kind(
                transformer=DiTTransformer2DModel.from_pretrained(folder / "transformer"),
                vae=AutoencoderKL.from_pretrained(folder / "vae"), scheduler=model.noise_scheduler(STEPS),
            )  # fmt: skip
        elif family == "ddpm":
            pipe = kind(
                unet=UNet2DModel.from_pretrained(folder / "unet"),
                scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
            )
        elif family == "uncond":
            pipe = kind(
                vqvae=AutoencoderKL.from_pretrained(folder / "vae"), unet=UNet2DModel.from_pretrained(folder / "unet"),
                scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
            )  # fmt: skip
        else:
            pipe = kind.from_pretrained(folder)
        if family not in ("ddpm", "uncond"):  # which make a DDIM of whatever they are given
            pipe.scheduler = model.noise_scheduler(STEPS)
        pipe.set_progress_bar_config(disable=True)
        return Tiny(family, model, pipe)

    def acceleration(self, *, order: int = 1) -> cq.Acceleration:
        """Refreshes at calls 0, 2 and 4, a Taylor forecast, and corrections with random gains; none that is fitted."""
        calls, denoiser = self.model.sampler.num_calls(STEPS), self.model.denoiser
        schedule = CacheSchedule(
            num_calls=calls, refresh_calls=(0, 2, 4), planner="test", interval=2, phases=((0, denoiser.sites),)
        )
        (maps_NCX,) = self._maps().values()
        channels = maps_NCX.shape[1]
        table = torch.stack([1 + 0.1 * torch.randn(calls, channels), 0.1 * torch.randn(calls, channels)], dim=1)
        scheduler = self.model.noise_scheduler(STEPS)
        return cq.Acceleration(
            schedule=schedule, forecast=forecast_of(schedule, Taylor(order=order, differences="divided")),
            cache=ChannelAffine(schedule=schedule.identity, tables={denoiser.sites[0]: table}, r2={}),
            made_from={
                "model": {"latent_shape": list(self.model.component.latent_shape), **fingerprint(denoiser)},
                "sampler": {
                    "num_inference_steps": STEPS, "scheduler": type(scheduler).__name__, "noise": noise_of(scheduler),
                    "timesteps": [float(t) for t in scheduler.timesteps],
                },
            },
        )  # fmt: skip

    @torch.no_grad()
    def _maps(self) -> Any:
        x = torch.randn(1, *self.model.component.latent_shape)
        cond = self.model.condition(torch.tensor([0]))
        return self.model.denoiser(x, call=0, timestep=torch.tensor(400), cond=cond, reuse={}).features

    def ours(self, acceleration: Acceleration, seeds: tuple[int, ...] = (0, 1)) -> Tensor:
        """The latents of cq's loop; seed i has label i."""
        labels = torch.tensor([seed % max(1, self.model.component.num_classes) for seed in seeds])
        *_, last = denoise(
            self.model.denoiser, self.model.noise_scheduler(STEPS),
            initial_noise(seeds, self.model.component.latent_shape), cond=self.model.condition(labels),
            acceleration=acceleration,
        )  # fmt: skip
        return last.x_NCHW

    def stock(self, seeds: tuple[int, ...] = (0, 1), *, steps: int = STEPS, **more: Any) -> Tensor:
        """The latents of the stock pipeline for the same noise and labels; of DDPM the images, which it clamps."""
        _, options = KINDS[self.family]
        told = {"num_inference_steps": steps, **options, **more}
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        if self.family in ("sd", "sdxl", "pixart"):
            latents = initial_noise(seeds, (4, 8, 8)).to(self.network.dtype)
            found: Tensor = self.pipe(
                [PROMPTS[seed % 3] for seed in seeds], latents=latents, output_type="latent", **told
            ).images
            return found
        if self.family == "ddpm":
            images = self.pipe(batch_size=len(seeds), generator=noise, output_type="np", **told).images
            return torch.from_numpy(images).permute(0, 3, 1, 2)
        vae = self.pipe.vqvae if self.family == "uncond" else self.pipe.vae
        seen: list[Tensor] = []
        decode = vae.decode

        def keep(latents: Tensor) -> Any:
            seen.append(latents)
            return decode(latents)

        vae.decode = keep
        try:
            if self.family == "dit":
                self.pipe([seed % 10 for seed in seeds], generator=noise, **told)
            else:
                self.pipe(batch_size=len(seeds), generator=noise, **told)
        finally:
            del vae.decode
        (last,) = seen
        scaled: Tensor = last * vae.config.scaling_factor
        return scaled

    def as_stock(self, latents: Tensor) -> Tensor:
        """What `stock` returns for the latents of `ours`."""
        return (latents / 2 + 0.5).clamp(0, 1) if self.family == "ddpm" else latents

    @property
    def network(self) -> Any:
        found = getattr(self.pipe, "unet", None)
        return self.pipe.transformer if found is None else found
