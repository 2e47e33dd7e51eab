"""A schedule that refreshes often at the start and rarely at the end."""

from dataclasses import dataclass

from cq.core.artifacts import CacheSchedule
from cq.core.contracts import PlanRequest
from my_ideas.groups import geometric


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Groups grow by `ratio`, with at most as many refreshes as a uniform schedule of `interval`."""

    interval: int
    ratio: float

    def check(self, num_calls: int) -> None:
        """Raise ValueError where a group would be longer than the trajectory."""
        if self.interval > num_calls:
            raise ValueError(f"interval={self.interval}: is longer than the {num_calls} calls. Lower it.")

    def plan(self, request: PlanRequest) -> CacheSchedule:
        """A function of the number of calls alone."""
        calls = geometric(request.num_calls, -(-request.num_calls // self.interval), self.ratio)
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=calls, planner="geometric", interval=self.interval
        )
