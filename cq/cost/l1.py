"""Plain L1: how far the stale map is from the true one, all calls alike."""

from dataclasses import dataclass

from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics


@dataclass(frozen=True, kw_only=True)
class L1:
    """Sum of absolute differences over samples and elements: the cost of CacheQuant's DPS (arXiv:2503.01323)."""

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0."""
        return statistics.l1_TD
