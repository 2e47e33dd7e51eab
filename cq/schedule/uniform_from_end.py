"""Uniform from the end: every interval-th call counted back from the last, as FORA does (arXiv:2407.01425)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.schedule.bounds import check_interval, check_num_calls

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class UniformFromEnd:
    """Refresh at call 0 and wherever the number of calls still to come is a multiple of the interval.

    FORA counts steps down and refreshes at its first step and at multiples of N; so the first group can be short, and
    where the grid does not meet call 0 there is one refresh more than on the uniform grid.
    """

    interval: int

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def check(self, num_calls: int) -> None:
        """Raise ValueError where there is no call."""
        check_num_calls(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The grid, and call 0."""
        from cq.core.artifacts import CacheSchedule

        self.check(request.num_calls)
        calls = {0, *range(request.num_calls - 1, -1, -self.interval)}
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=tuple(sorted(calls)), planner="uniform_from_end",
            interval=self.interval,
        )  # fmt: skip
