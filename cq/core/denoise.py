"""The only denoising loop. Calibration, sampling, timing and tests are consumers of what it yields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.contracts import NoiseScheduler
from cq.core.denoiser import Denoiser, DenoiserOutput


@dataclass(frozen=True)
class DenoiseStep:
    """One call of the denoiser. x_NCHW: the state after it. output: what the denoiser returned."""

    call: int
    timestep: Tensor
    x_NCHW: Tensor
    output: DenoiserOutput


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    noise_scheduler: NoiseScheduler,
    x_NCHW: Tensor,
    *,
    cond: Tensor | None,
    acceleration: Acceleration,
) -> Iterator[DenoiseStep]:
    """Denoise `x_NCHW` along `noise_scheduler.timesteps`; the cached maps are a local value, so nothing can leak.

    x_NCHW: noise of standard deviation 1. noise_scheduler: a diffusers scheduler whose timesteps are set; it is used by
    this loop alone, which scales the noise, and what the denoiser is called with, as the scheduler wants it.
    acceleration: when the maps are refreshed, and what stands in for them; the bits are the denoiser's business.
    Raises ValueError, at the first call, for one of another number of calls.
    """
    timesteps = noise_scheduler.timesteps
    if acceleration.num_calls != len(timesteps):
        raise ValueError(
            f"the cache schedule is for {acceleration.num_calls} calls, the sampler makes {len(timesteps)}. "
            "Plan a schedule for this step count."
        )
    x_NCHW = x_NCHW * noise_scheduler.init_noise_sigma
    past: list[Mapping[str, Tensor]] = []  # the maps of the last refreshes, newest first
    for call, timestep in enumerate(timesteps):
        reuse = acceleration.reused(call, past, sites=denoiser.sites)
        scaled_NCHW = noise_scheduler.scale_model_input(x_NCHW, timestep)
        output = denoiser(scaled_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)
        if output.features:
            past = [output.features, *past][: acceleration.depth]
        x_NCHW = noise_scheduler.step(output.eps_NCHW, timestep, x_NCHW).prev_sample
        yield DenoiseStep(call, timestep, x_NCHW, output)
