"""DPS, dynamic programming schedule: the refreshes that make stale maps stand closest to the true ones."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from cq.schedule.bounds import GroupBounds, check_interval, group_bounds
from cq.schedule.optimal import optimal_groups

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class DPS:
    """CacheQuant's schedule (arXiv:2503.01323): exactly K groups of bounded length at the least total cost.

    A group stands on the map of its first call; its cost is the sum over its calls of the chosen `cost`. The solution
    is exact; ties go to the smallest start.

    interval: nominal calls per group. num_groups: K; None for ceil(num_calls / interval), the refreshes of the uniform
    grid. PLMS makes one call more than it has steps, and the paper's code counts steps: for its K
    there (50 steps, 51 calls, interval 5: 10, not 11) set num_groups. min_group, max_group: calls; None for
    ceil(interval / 2) and 2 interval; max_group is clamped to the trajectory.
    """

    interval: int
    num_groups: int | None
    min_group: int | None
    max_group: int | None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        for key in ("num_groups", "min_group", "max_group"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"schedule.{key}={value}: must be at least 1. Use null for the default.")
        if self.min_group is not None and self.max_group is not None and self.min_group > self.max_group:
            raise ValueError(
                f"schedule.min_group={self.min_group}: exceeds schedule.max_group={self.max_group}. Swap them."
            )

    def check(self, num_calls: int) -> None:
        """Raise ValueError where no grouping of `num_calls` calls satisfies the bounds."""
        self.bounds(num_calls)

    def reach(self, num_calls: int) -> int:
        """From the end of the longest group to its start."""
        return self.bounds(num_calls).max_group - 1

    def refreshes(self, num_calls: int) -> int:
        """K."""
        return self.bounds(num_calls).num_groups

    def bounds(self, num_calls: int) -> GroupBounds:
        """The number and lengths of groups for a trajectory of `num_calls`; ValueError where they do not fit."""
        return group_bounds(
            num_calls,
            interval=self.interval,
            num_groups=self.num_groups,
            min_group=self.min_group,
            max_group=self.max_group,
        )

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The optimal schedule under the request's cost.

        Raises ValueError where the statistics are of another number of calls or do not reach far enough back.
        """
        from cq.core.artifacts import CacheSchedule

        bounds = self.bounds(request.num_calls)
        distance_TD = request.cost.distances(request.gathered)
        num_calls, band = distance_TD.shape
        if num_calls != request.num_calls:
            raise ValueError(
                f"the calibration statistics cover {num_calls} calls, the run has {request.num_calls}. "
                "Calibrate with the same budget.num_steps."
            )
        if band < bounds.max_group:
            raise ValueError(
                f"calibrate.max_interval: its statistics compare calls up to {band - 1} apart, but groups of up to "
                f"{bounds.max_group} calls need {bounds.max_group - 1}. Set calibrate.max_interval to at least "
                f"{ceil(bounds.max_group / 2)}, or schedule.max_group to at most {band}."
            )
        table = optimal_groups(
            distance_TD.numpy(force=True),
            min_group=bounds.min_group,
            max_group=bounds.max_group,
            max_groups=bounds.num_groups,
        )
        return CacheSchedule(
            num_calls=num_calls,
            refresh_calls=table.refresh_calls(bounds.num_groups),
            planner="dps",
            interval=self.interval,
        )
