"""One tiny model of every family."""

from pathlib import Path
from typing import Any

from cq.models.diffusion import ModelComponent
from cq.models.latent import LatentDiffusion
from cq.models.pixart_sigma import PixArtSigma
from cq.models.pixel import PixelDiffusion
from cq.models.sdxl import StableDiffusionXL
from cq.models.stable_diffusion import StableDiffusion
from cq.models.transformer import DiffusionTransformer
from tests.tiny import (
    write_tiny_ddpm,
    write_tiny_dit,
    write_tiny_ldm,
    write_tiny_pixart,
    write_tiny_sd,
    write_tiny_sdxl,
    write_tiny_uncond,
)

WRITERS = {
    "ldm": write_tiny_ldm, "uncond": write_tiny_uncond, "ddpm": write_tiny_ddpm, "sd": write_tiny_sd,
    "dit": write_tiny_dit, "sdxl": write_tiny_sdxl, "pixart": write_tiny_pixart,
}  # fmt: skip


def component(family: str, folder: Path) -> ModelComponent:
    """The component for a folder that the family's writer made."""
    weights, latents = str(folder), (4, 8, 8)
    made: dict[str, Any] = {
        "ldm": lambda: LatentDiffusion(
            weights=weights, site="up_blocks.2.resnets.2", guidance=1.5, num_classes=10, latent_shape=latents,
            image_shape=(1, 32, 32), release=None,
        ),
        "uncond": lambda: LatentDiffusion(
            weights=weights, site="up_blocks.1.resnets.2", guidance=None, num_classes=0, latent_shape=latents,
            image_shape=(1, 32, 32), release=None,
        ),
        "ddpm": lambda: PixelDiffusion(
            weights=weights, site="up_blocks.2.resnets.2", image_shape=(3, 16, 16), release=None,
        ),
        "sd": lambda: StableDiffusion(
            weights=weights, site="up_blocks.1.resnets.2", guidance=7.5, prompts=weights, latent_shape=latents,
            image_shape=(3, 32, 32), release=None,
        ),
        "dit": lambda: DiffusionTransformer(
            weights=weights, site="blocks.1-4", guidance=1.5, num_classes=10, latent_shape=latents,
            image_shape=(1, 32, 32), release=None,
        ),
        "sdxl": lambda: StableDiffusionXL(
            weights=weights, site="up_blocks.1.resnets.2", guidance=5.0, prompts=weights, latent_shape=latents,
            image_shape=(3, 32, 32), release=None,
        ),
        "pixart": lambda: PixArtSigma(
            weights=weights, site="blocks.1-4", guidance=4.5, prompts=weights, latent_shape=latents,
            image_shape=(3, 32, 32), release=None,
        ),
    }  # fmt: skip
    model: ModelComponent = made[family]()
    return model


KIND = {family: "transformer" if family in ("dit", "pixart") else "unet" for family in WRITERS}
