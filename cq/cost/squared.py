"""Squared distance: large differences weigh more."""

from dataclasses import dataclass

from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics


@dataclass(frozen=True, kw_only=True)
class Squared:
    """Sum of squared differences over samples and elements."""

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0."""
        return statistics.squared_TD
