"""Adjoint: the refreshes whose reuse moves the final latent least, to first order and with all signs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.core.values import Count
from cq.schedule.bounds import GroupBounds, check_interval, group_bounds
from cq.schedule.coherent import CoherentCost, Refreshes
from cq.schedule.random_groups import RandomGroups

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.planning import PlanRequest, Probes


@dataclass(frozen=True, kw_only=True)
class Adjoint:
    """Exactly ceil(num_calls / interval) refreshes at the least coherent cost that a local search finds.

    Projections of the final latent are pulled back through full-precision trajectories, so what the error of reusing
    the map of call s at call t does to the image is known for every pair (`cq.calibrate.sketches`), and errors may
    cancel. The search moves one refresh at a time, from the uniform grid, the grids shifted against it, the optimum
    over groups' own costs, and random schedules (`cq.schedule.coherent`). Sketches are of plain reuse without a
    correction.

    trajectories, projections: their product is how many numbers a pair is sketched by. restarts: random schedules.
    max_group: calls; None for 2 interval.
    """

    interval: int
    trajectories: Count
    projections: Count
    restarts: int
    max_group: int | None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.restarts < 0:
            raise ValueError(f"schedule.restarts={self.restarts}: must not be negative. 8 is usual.")
        if self.max_group is not None and self.max_group < self.interval:
            raise ValueError(
                f"schedule.max_group={self.max_group}: is below the interval {self.interval}, so the uniform grid "
                "would not fit. Use null for twice the interval."
            )

    def check(self, num_calls: int) -> None:
        """Raise ValueError where no grouping of `num_calls` calls satisfies the bounds."""
        self._bounds(num_calls)

    def probes(self, num_calls: int) -> "Probes":
        """The sketches it reads, from the end of the longest group to its start."""
        from cq.core.planning import Probes

        longest = self._bounds(num_calls).max_group
        return Probes(trajectories=self.trajectories, projections=self.projections, reach=longest - 1)

    def refreshes(self, num_calls: int) -> int:
        """As on the uniform grid."""
        return self._bounds(num_calls).num_groups

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The best schedule that the search comes to; of equal ones that of the earliest start."""
        from cq.core.artifacts import CacheSchedule

        bounds = self._bounds(request.num_calls)
        sketch_TDK = request.sketched.sketch_TDK[:, : bounds.max_group].numpy(force=True)
        cost = CoherentCost(sketch_TDK=sketch_TDK, max_group=bounds.max_group)
        found = [cost.improved(start) for start in self._starts(cost, request)]
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=min(found, key=cost.of), planner="adjoint",
            interval=self.interval,
        )  # fmt: skip

    def _bounds(self, num_calls: int) -> GroupBounds:
        return group_bounds(num_calls, interval=self.interval, num_groups=None, min_group=1, max_group=self.max_group)

    def _starts(self, cost: CoherentCost, request: "PlanRequest") -> list[Refreshes]:
        """Those that keep the bounds."""
        calls, groups = request.num_calls, self.refreshes(request.num_calls)
        shifted = [(0, *range(first, calls, self.interval)) for first in range(1, self.interval)]
        drawn = [RandomGroups(interval=self.interval, seed=seed).plan(request) for seed in range(self.restarts)]
        known = [tuple(range(0, calls, self.interval)), cost.apart(groups), *shifted]
        starts = [*known, *(each.refresh_calls for each in drawn)]
        return [start for start in starts if len(start) == groups and cost.of(start) < float("inf")]
