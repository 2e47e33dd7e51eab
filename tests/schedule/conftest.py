"""A request that hands a planner ready-made distances."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics
from cq.core.contracts import PlanRequest
from cq.laws.drift import drifting_maps, statistics_of


@dataclass(frozen=True)
class GivenDistances:
    """A cost that ignores the statistics."""

    distance_TD: Tensor

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        return self.distance_TD


@pytest.fixture
def request_for() -> Callable[[npt.NDArray[np.float64]], PlanRequest]:
    def make(distance_TD: npt.NDArray[np.float64]) -> PlanRequest:
        statistics = statistics_of(drifting_maps(2, seed=0), window=1)
        return PlanRequest(
            num_calls=len(distance_TD),
            cost=GivenDistances(torch.from_numpy(distance_TD)),
            statistics=statistics,
        )

    return make


@pytest.fixture
def blind_request() -> Callable[[int], PlanRequest]:
    """A request without statistics."""

    def make(num_calls: int) -> PlanRequest:
        return PlanRequest(num_calls=num_calls, cost=GivenDistances(torch.empty(0)))

    return make
