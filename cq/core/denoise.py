"""The only denoising loop. Calibration, sampling, timing and tests are consumers of what it yields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.combine import combine
from cq.core.contracts import Denoiser, DenoiserOutput, Predictor
from cq.predict.last import Last

LAST = Last()


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
    noise_scheduler: Any,
    x_NCHW: Tensor,
    *,
    cond: Tensor | None,
    schedule: CacheSchedule,
    correction: ChannelAffine,
    predictor: Predictor = LAST,
) -> Iterator[DenoiseStep]:
    """Denoise `x_NCHW` along `noise_scheduler.timesteps`; the cached maps are a local value, so nothing can leak.

    x_NCHW: noise of standard deviation 1. noise_scheduler: a diffusers scheduler whose timesteps are set; it is used by
    this loop alone, which scales the noise, and what the denoiser is called with, as the scheduler wants it.
    At a reuse call the predictor makes each map from those of the last refreshes, and the correction mends that.
    Raises ValueError, at the first call, for a schedule of another number of calls or a correction of another schedule.
    """
    timesteps = noise_scheduler.timesteps
    if schedule.num_calls != len(timesteps):
        raise ValueError(
            f"the cache schedule is for {schedule.num_calls} calls, the sampler makes {len(timesteps)}. "
            "Plan a schedule for this step count."
        )
    if correction.tables and correction.schedule not in ("", schedule.identity):
        raise ValueError(
            f"the correction was fitted for schedule {correction.schedule[:12]}, not for {schedule.identity[:12]}. "
            "Fit it again for this schedule."
        )
    if any(len(table) != len(timesteps) for table in correction.tables.values()):
        raise ValueError(f"the correction's tables are not for {len(timesteps)} calls. Fit it again for this schedule.")
    x_NCHW = x_NCHW * noise_scheduler.init_noise_sigma
    refresh = set(schedule.refresh_calls)
    past: list[tuple[int, Mapping[str, Tensor]]] = []  # the last refreshes, newest first
    for call, timestep in enumerate(timesteps):
        reuse: dict[str, Tensor] = {}
        if call not in refresh:
            weights = predictor.weights(call, tuple(at for at, _ in past))
            for site in schedule.sites_at(call, default=denoiser.sites):
                held = combine(weights, [features[site] for _, features in past])
                reuse[site] = correction.apply(held, name=site, call=call)
        scaled_NCHW = noise_scheduler.scale_model_input(x_NCHW, timestep)
        output = denoiser(scaled_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)
        if output.features:
            past = [(call, output.features), *past][: predictor.depth]
        x_NCHW = noise_scheduler.step(output.eps_NCHW, timestep, x_NCHW).prev_sample
        yield DenoiseStep(call, timestep, x_NCHW, output)
