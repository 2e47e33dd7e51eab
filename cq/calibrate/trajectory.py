"""The one full-precision calibration pass: distances and cross-moments of the cut-point map at every near pair.

Memory is a ring of the last `window` maps, whatever the number of calls; any schedule whose groups fit the
window, and its cache correction, follow from the result without another pass.
Legend: T call, D distance in calls, N batch, C channel.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cq.artifacts import TrajectoryStatistics
from cq.denoise import DenoiseStep

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """num_samples trajectories in batches of batch_size; groups up to 2 * max_interval - 1 calls are covered."""

    num_samples: int
    batch_size: int
    max_interval: int

    def __post_init__(self) -> None:
        for key in ("num_samples", "batch_size", "max_interval"):
            if getattr(self, key) < 1:
                raise ValueError(f"calibrate.{key}={getattr(self, key)}: must be at least 1.")

    @property
    def window(self) -> int:
        return 2 * self.max_interval - 1


def collect_statistics(
    batches: Iterable[Iterable[DenoiseStep]], *, site: str, noise_scheduler: Any, window: int
) -> TrajectoryStatistics:
    """Consume full-precision trajectories (every call a refresh) and sum over all of them.

    batches: one denoising loop a batch. Sums are float64 and additive, so batches may come in any order.
    """
    timesteps = noise_scheduler.timesteps
    alphas = noise_scheduler.alphas_cumprod.double()[timesteps.long()]
    num_calls = len(timesteps)
    window = min(window, num_calls - 1)
    l1 = torch.zeros(num_calls, window + 1, dtype=torch.float64)
    squared = torch.zeros_like(l1)
    sums: Tensor | None = None
    squares = cross = torch.empty(0)
    count = 0
    for steps in batches:
        ring: list[Tensor] = []
        for step in steps:
            new = step.output.features[site]
            if sums is None:
                channels = new.shape[1]
                sums = torch.zeros(num_calls, channels, dtype=torch.float64)
                squares = torch.zeros_like(sums)
                cross = torch.zeros(num_calls, window + 1, channels, dtype=torch.float64)
            exact = new.double()
            rest = [0, *range(2, new.ndim)]
            sums[step.call] += exact.sum(rest)
            square = exact.square().sum(rest)
            squares[step.call] += square
            cross[step.call, 0] += square
            for distance, old in enumerate(reversed(ring), start=1):
                difference = new - old
                l1[step.call, distance] += difference.abs_().sum(dtype=torch.float64)
                product = (exact * old).sum(rest)
                cross[step.call, distance] += product
            ring = [*ring[-(window - 1) :], new] if window > 1 else [new][:window]
            if step.call == 0:
                count += new.numel() // new.shape[1]
    assert sums is not None, "calibration needs at least one batch"
    for distance in range(1, window + 1):
        pair = squares[distance:] + squares[:-distance] - 2 * cross[distance:, distance]
        squared[distance:, distance] = pair.sum(1).clamp(min=0)
        l1[:distance, distance] = squared[:distance, distance] = torch.inf
    return TrajectoryStatistics(
        site=site,
        num_calls=num_calls,
        count=count,
        l1_TD=l1,
        squared_TD=squared,
        sum_TC=sums,
        square_TC=squares,
        cross_TDC=cross,
        timesteps_T=timesteps.long().clone(),
        sigma_T=((1 - alphas) / alphas).sqrt(),
    )
