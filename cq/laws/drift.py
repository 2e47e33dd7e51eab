"""Trajectory statistics the slow way: from all maps at once, one pair at a time."""

import torch
from torch import Tensor

from cq.core.artifacts import CacheSchedule, TrajectoryStatistics

SITE = "deep"


def falling_sigma(num_calls: int) -> Tensor:
    """A noise level that falls from about 14 to 0.1, as DDIM's does."""
    return torch.logspace(1.15, -1.0, num_calls, dtype=torch.float64)


def statistics_of(maps_TNCX: Tensor, *, window: int, sigma_T: Tensor | None = None) -> TrajectoryStatistics:
    """Every field of `TrajectoryStatistics` from explicit maps [T, N, C, ...]."""
    maps = maps_TNCX.double().flatten(3) if maps_TNCX.ndim > 3 else maps_TNCX.double()[..., None]
    num_calls, _, channels, _ = maps.shape
    l1 = torch.full((num_calls, window + 1), torch.inf, dtype=torch.float64)
    squared = l1.clone()
    cross = torch.zeros(num_calls, window + 1, channels, dtype=torch.float64)
    for t in range(num_calls):
        for d in range(min(window, t) + 1):
            l1[t, d] = (maps[t] - maps[t - d]).abs().sum()
            squared[t, d] = (maps[t] - maps[t - d]).square().sum()
            cross[t, d] = (maps[t] * maps[t - d]).sum((0, 2))
    return TrajectoryStatistics(
        num_calls=num_calls,
        phases=((0, (SITE,)),),
        count={SITE: maps.shape[1] * maps.shape[3]},
        size_T=maps.abs().sum((1, 2, 3)),
        l1_TD=l1,
        squared_TD=squared,
        sum_TC={SITE: maps.sum((1, 3))},
        square_TC={SITE: maps.square().sum((1, 3))},
        cross_TDC={SITE: cross},
        timesteps_T=torch.arange(num_calls).flip(0),
        sigma_T=falling_sigma(num_calls) if sigma_T is None else sigma_T,
    )


def last_refresh(schedule: CacheSchedule, call: int) -> int:
    """The last refresh at or before `call`."""
    return max(refresh for refresh in schedule.refresh_calls if refresh <= call)


def drifting_maps(num_calls: int, *, seed: int, samples: int = 3, channels: int = 4, size: int = 5) -> Tensor:
    """Maps [T, N, C, H, W] that move step by step, with a gain, an offset and noise of their own at each call."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    maps = [normal(samples, channels, size, size)]
    for _ in range(num_calls - 1):
        gain = 1 + 0.1 * normal(1, channels, 1, 1)
        offset = 0.3 * normal(1, channels, 1, 1)
        maps.append(gain * maps[-1] + offset + 0.2 * normal(samples, channels, size, size))
    return torch.stack(maps)
