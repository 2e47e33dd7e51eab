"""Residual: what the stale map still misses after the best correction; a cost that knows the map will be corrected."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics

# Centred sums below this share of the raw ones are rounding: float64 keeps 16 digits and long sums lose a few.
NOISE_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class Residual:
    """Sum of squared differences left by the per-channel least-squares gain and offset, over all channels.

    Plans for DEC (CacheQuant, arXiv:2503.01323): a change that an affine map of each channel undoes costs nothing.
    """

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0. Where a channel of the stale map is constant its
        gain explains nothing, and all variance of the true one is left."""
        out_TD = torch.full_like(statistics.l1_TD, torch.inf)
        out_TD[:, 0] = 0.0
        for d in range(1, min(statistics.window + 1, statistics.num_calls)):
            out_TD[d:, d] = 0.0
            for site in statistics.count:
                counts_T = statistics.counts_at(site)[d:]
                out_TD[d:, d] += torch.where(counts_T, _left_over(statistics, site, d), 0.0)
        return out_TD


def _left_over(statistics: TrajectoryStatistics, site: str, d: int) -> Tensor:
    """float64 [T - d]: what the best gains leave of the map of each call t >= d, made from that of call t - d."""
    count, sum_TC, square_TC = statistics.count[site], statistics.sum_TC[site], statistics.square_TC[site]
    mean_TC = sum_TC / count
    centred_TC = square_TC - count * mean_TC.square()
    live = (centred_TC > NOISE_FLOOR * square_TC)[:-d]
    cross_TC = statistics.cross_TDC[site][d:, d] - count * mean_TC[d:] * mean_TC[:-d]
    explained_TC = torch.where(live, cross_TC.square() / torch.where(live, centred_TC[:-d], 1.0), 0.0)
    # never below zero (Cauchy-Schwarz) but for rounding
    return (centred_TC[d:] - explained_TC).clamp(min=0.0).sum(1)
