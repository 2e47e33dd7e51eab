"""Residual: what the stale map still misses after the best correction; a cost that knows the map will be corrected."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cq.artifacts import TrajectoryStatistics

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
        num_calls, width, _ = statistics.cross_TDC.shape
        mean_TC = statistics.sum_TC / statistics.count
        centred_TC = statistics.square_TC - statistics.count * mean_TC.square()
        live_TC = centred_TC > NOISE_FLOOR * statistics.square_TC
        out_TD = torch.full((num_calls, width), torch.inf, dtype=torch.float64)
        out_TD[:, 0] = 0.0
        for d in range(1, min(width, num_calls)):
            source_C, target_C = centred_TC[:-d], centred_TC[d:]
            cross_C = statistics.cross_TDC[d:, d] - statistics.count * mean_TC[d:] * mean_TC[:-d]
            live = live_TC[:-d]
            explained_C = torch.where(live, cross_C.square() / torch.where(live, source_C, 1.0), 0.0)
            # never below zero (Cauchy-Schwarz) but for rounding
            out_TD[d:, d] = (target_C - explained_C).clamp(min=0.0).sum(1)
        return out_TD
