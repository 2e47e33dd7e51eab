"""Random groups: a schedule drawn evenly from all that DPS chooses from, as its null hypothesis."""

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from cq.schedule.bounds import GroupBounds, check_interval, group_bounds

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class RandomGroups:
    """One of the schedules with DPS's default number and lengths of groups, each equally likely.

    seed: names the draw. Does a planned schedule do better than most of these? Reads no statistics.
    """

    interval: int
    seed: int

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.seed < 0:
            raise ValueError(f"schedule.seed={self.seed}: must not be negative (-n would draw the same as n).")

    def check(self, num_calls: int) -> None:
        """Raise ValueError where no grouping of `num_calls` calls satisfies the bounds."""
        self._bounds(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The schedule of this seed."""
        from cq.core.artifacts import CacheSchedule

        calls = random_calls(request.num_calls, bounds=self._bounds(request.num_calls), seed=self.seed)
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=calls, planner="random_groups", interval=self.interval
        )

    def _bounds(self, num_calls: int) -> GroupBounds:
        return group_bounds(num_calls, interval=self.interval, num_groups=None, min_group=None, max_group=None)


def count_groupings(num_calls: int, *, bounds: GroupBounds) -> list[list[int]]:
    """Entry [k][n]: in how many ways n calls split into k groups within the bounds. Exact integers."""
    lo, hi = bounds.min_group, bounds.max_group
    counts = [[1] + [0] * num_calls]
    for _ in range(bounds.num_groups):
        below = [0, *accumulate(counts[-1])]  # below[n]: sum of the first n entries
        counts.append([below[max(n - lo + 1, 0)] - below[max(n - hi, 0)] for n in range(num_calls + 1)])
    return counts


def random_calls(num_calls: int, *, bounds: GroupBounds, seed: int) -> tuple[int, ...]:
    """The first call of each group of one grouping, drawn exactly evenly: integers, no rounding.

    Lengths are drawn from the last group to the first, each in proportion to the groupings that remain before it.
    """
    counts = count_groupings(num_calls, bounds=bounds)
    generator = random.Random(seed)
    starts: list[int] = []
    end = num_calls
    for k in range(bounds.num_groups, 0, -1):
        rank = generator.randrange(counts[k][end])
        for start in range(max(end - bounds.max_group, 0), end - bounds.min_group + 1):
            rank -= counts[k - 1][start]
            if rank < 0:
                break
        starts.append(start)
        end = start
    return tuple(reversed(starts))
