"""The one full-precision calibration pass: distances and cross-moments of the cached maps at every near pair.

Memory is a ring of the last `window` maps, whatever the number of calls; any schedule whose groups fit the
window, and its cache correction, follow from the result without another pass.
Legend: T call, D distance in calls, N batch, C channel.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cq.artifacts import TrajectoryStatistics
from cq.denoise import DenoiseStep
from cq.phases import Phases, all_sites, sites_at

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

    def reduce(self, x_NCX: Tensor) -> Tensor:
        """What is kept of a map for comparing it with others: all of it."""
        return x_NCX


def whole(x_NCX: Tensor) -> Tensor:
    """A map as it is."""
    return x_NCX


def collect_statistics(
    batches: Iterable[Iterable[DenoiseStep]],
    *,
    phases: Phases,
    noise_scheduler: Any,
    window: int,
    reduce: Callable[[Tensor], Tensor] = whole,
) -> TrajectoryStatistics:
    """Consume full-precision trajectories (every call a refresh) and sum over all of them.

    batches: one denoising loop a batch. Sums are float64 and additive, so batches may come in any order.
    phases: the sites to look at; distances of a call sum over the sites of its phase. reduce: what is kept of a map.
    """
    timesteps = noise_scheduler.timesteps
    alphas = noise_scheduler.alphas_cumprod.double()[timesteps.long()]
    num_calls = len(timesteps)
    window = min(window, num_calls - 1)
    l1 = torch.zeros(num_calls, window + 1, dtype=torch.float64)
    squared = torch.zeros_like(l1)
    size_T = torch.zeros(num_calls, dtype=torch.float64)
    sums = {site: _SiteSums(num_calls, window) for site in all_sites(phases)}
    num_batches = 0
    for steps in batches:
        num_batches += 1
        rings: dict[str, list[Tensor]] = {site: [] for site in sums}
        for step in steps:
            counted = sites_at(phases, step.call)
            for site, own in sums.items():
                new = reduce(step.output.features[site])
                l1_D = own.add(step.call, new, rings[site])
                if site in counted:
                    l1[step.call] += l1_D
                    size_T[step.call] += new.abs().sum(dtype=torch.float64)
                rings[site] = [*rings[site][-(window - 1) :], new] if window > 1 else [new][:window]
    assert num_batches, "calibration needs at least one batch"
    for site, own in sums.items():
        counts_T1 = torch.tensor([site in sites_at(phases, call) for call in range(num_calls)])[:, None]
        squared += torch.where(counts_T1, own.squared_distances(), 0.0)
    for distance in range(1, window + 1):
        l1[:distance, distance] = squared[:distance, distance] = torch.inf
    return TrajectoryStatistics(
        num_calls=num_calls,
        phases=phases,
        count={site: own.count for site, own in sums.items()},
        l1_TD=l1,
        squared_TD=squared,
        size_T=size_T,
        sum_TC={site: own.sum_TC for site, own in sums.items()},
        square_TC={site: own.square_TC for site, own in sums.items()},
        cross_TDC={site: own.cross_TDC for site, own in sums.items()},
        timesteps_T=timesteps.long().clone(),
        sigma_T=((1 - alphas) / alphas).sqrt(),
    )


class _SiteSums:
    """The running sums of one site."""

    def __init__(self, num_calls: int, window: int) -> None:
        self._shape = (num_calls, window + 1)
        self.sum_TC = self.square_TC = self.cross_TDC = torch.empty(0)
        self.count = 0

    def add(self, call: int, new: Tensor, ring: list[Tensor]) -> Tensor:
        """Add the map of `call`; float64 [D], its L1 distance to each map of the ring (the newest is last)."""
        if not self.count:
            num_calls, width = self._shape
            self.sum_TC = torch.zeros(num_calls, new.shape[1], dtype=torch.float64)
            self.square_TC = torch.zeros_like(self.sum_TC)
            self.cross_TDC = torch.zeros(num_calls, width, new.shape[1], dtype=torch.float64)
        exact = new.double()
        rest = [0, *range(2, new.ndim)]
        square_C = exact.square().sum(rest)
        self.sum_TC[call] += exact.sum(rest)
        self.square_TC[call] += square_C
        self.cross_TDC[call, 0] += square_C
        l1_D = torch.zeros(self._shape[1], dtype=torch.float64)
        for distance, old in enumerate(reversed(ring), start=1):
            l1_D[distance] = (new - old).abs_().sum(dtype=torch.float64)
            self.cross_TDC[call, distance] += (exact * old).sum(rest)
        if call == 0:
            self.count += new.numel() // new.shape[1]
        return l1_D

    def squared_distances(self) -> Tensor:
        """float64 [T, D], zero where t - d < 0."""
        out = torch.zeros(self._shape, dtype=torch.float64)
        for distance in range(1, self._shape[1]):
            pair = self.square_TC[distance:] + self.square_TC[:-distance] - 2 * self.cross_TDC[distance:, distance]
            out[distance:, distance] = pair.sum(1).clamp(min=0)
        return out
