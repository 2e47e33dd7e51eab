"""What a planner of schedules must provide, and what it may look at: nothing, or one of three kinds of knowledge.

Statistics of calibration (`ReadsStatistics`), sketches of what reuse does to the final latent (`ReadsSketches`), and
schedules run for real on images set aside (`RunsTrials`); each is made only for a planner that says that it reads it.
Legend: T call of the denoiser in sampling order, D distance in calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from torch import Tensor

    from cq.core.artifacts import CacheSchedule, ReuseSketches, TrajectoryStatistics


@runtime_checkable
class Cost(Protocol):
    """What it costs to stand at call t with the map of call t - d."""

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0."""


class Trial(Protocol):
    """A schedule run for real: by the deployed sampler in full precision, on images set aside for tuning."""

    def __call__(self, refresh_calls: tuple[int, ...], *, first: int, count: int) -> Tensor:
        """float64 [count]: relative error of the final latent against full precision, of images first, first + 1, ...

        The same arguments give the same numbers.
        """


@dataclass(frozen=True)
class PlanRequest:
    """What a planner may look at; None for what it does not say that it reads."""

    num_calls: int
    cost: Cost
    statistics: TrajectoryStatistics | None = None
    sketches: ReuseSketches | None = None
    trial: Trial | None = None

    @property
    def gathered(self) -> TrajectoryStatistics:
        """The statistics of calibration; ValueError for a planner that did not say that it reads them."""
        if self.statistics is None:
            raise ValueError(
                "schedule: this planner reads statistics and does not say how far back. Give it `reach` and "
                "`refreshes`, as cq.core.planning.ReadsStatistics has them."
            )
        return self.statistics

    @property
    def sketched(self) -> ReuseSketches:
        """The sketches of reuse; ValueError for a planner that did not say that it reads them."""
        if self.sketches is None:
            raise ValueError(
                "schedule: this planner reads sketches and does not say which. Give it `probes` and `refreshes`, as "
                "cq.core.planning.ReadsSketches has them."
            )
        return self.sketches

    @property
    def tried(self) -> Trial:
        """How schedules are run; ValueError for a planner that did not say that it runs any."""
        if self.trial is None:
            raise ValueError(
                "schedule: this planner runs schedules and does not say how many. Give it `trials` and `refreshes`, "
                "as cq.core.planning.RunsTrials has them."
            )
        return self.trial


@runtime_checkable
class SchedulePlanner(Protocol):
    """Decides when the cached map is refreshed. One that reads what is computed first is also a `PlansLate`."""

    def check(self, num_calls: int) -> None:
        """Raise ValueError, before anything expensive, where no schedule of `num_calls` calls can exist."""

    def plan(self, request: PlanRequest) -> CacheSchedule:
        """The schedule; a pure function of the request."""


@runtime_checkable
class PlansLate(Protocol):
    """What a planner adds that reads something computed; the others are planned before anything is."""

    def refreshes(self, num_calls: int) -> int:
        """About how many refreshes its schedule will have, for estimates."""


@runtime_checkable
class ReadsStatistics(PlansLate, Protocol):
    """What a planner adds that reads the statistics of calibration."""

    def reach(self, num_calls: int) -> int:
        """How many calls back the statistics must go: the largest distance at which it looks at a pair of calls."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Sketches that a planner reads: of so many trajectories, projections of each, and calls back."""

    trajectories: int
    projections: int
    reach: int


@runtime_checkable
class ReadsSketches(PlansLate, Protocol):
    """What a planner adds that reads sketches of what reuse does to the final latent."""

    def probes(self, num_calls: int) -> Probes:
        """Which."""


@runtime_checkable
class RunsTrials(PlansLate, Protocol):
    """What a planner adds that runs schedules before it decides."""

    @property
    def num_images(self) -> int:
        """Tuning images that it looks at in all."""

    def trials(self, num_calls: int) -> int:
        """How many trajectories of one image it runs with a cache, at most; for estimates."""
