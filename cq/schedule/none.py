"""No cache: the whole network runs at every call."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.schedule.bounds import check_num_calls

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class NoCache:
    """Refresh at every call: the identity among schedules. Reads no statistics and no budget."""

    def check(self, num_calls: int) -> None:
        """Raise ValueError where there is no call."""
        check_num_calls(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """All calls, interval None."""
        from cq.core.artifacts import CacheSchedule

        self.check(request.num_calls)
        calls = tuple(range(request.num_calls))
        return CacheSchedule(num_calls=request.num_calls, refresh_calls=calls, planner="none", interval=None)
