"""From latents to pixels."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def decoded(vae: Any, latents_NCHW: Tensor) -> Tensor:
    """Latents as the denoiser has them to images, about -1..1: scale, mean and deviation are undone, then decoded."""
    config = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        latents_NCHW = latents_NCHW / config.scaling_factor
    else:
        mean_C11, std_C11 = (torch.tensor(values).to(latents_NCHW).view(-1, 1, 1) for values in (mean, std))
        latents_NCHW = latents_NCHW * std_C11 / config.scaling_factor + mean_C11
    images_NCHW: Tensor = vae.decode(latents_NCHW).sample
    return images_NCHW


def to_pixels(images_NCHW: Tensor) -> Tensor:
    """-1..1 to uint8, clamped and rounded to nearest."""
    pixels: Tensor = ((images_NCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels
