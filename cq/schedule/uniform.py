"""Uniform: refresh at every interval-th call."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.schedule.bounds import check_interval, check_num_calls

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Refresh at 0, interval, 2 interval, ... (DeepCache's default, arXiv:2312.00858). Reads no statistics.

    Calls count, not steps: where a noise scheduler calls twice in its first step (PLMS) the grid is not shifted.
    An interval above the number of calls leaves the one refresh at call 0.
    """

    interval: int

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def check(self, num_calls: int) -> None:
        """Raise ValueError where there is no call."""
        check_num_calls(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """ceil(num_calls / interval) refreshes; the last group may be shorter."""
        from cq.core.artifacts import CacheSchedule

        self.check(request.num_calls)
        calls = tuple(range(0, request.num_calls, self.interval))
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=calls, planner="uniform", interval=self.interval
        )
