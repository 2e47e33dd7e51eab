"""Threshold: refresh when the map has changed enough since the last one, read off the calibration trajectories.

In the manner of TeaCache (arXiv:2411.19108) and first-block caching: the relative change from call to call is added
up, and where the sum reaches the threshold the map is refreshed and the sum starts anew. They decide while sampling,
batch by batch; here the change is that of the calibration trajectories, so the schedule is data, every image gets the
same one, and no image depends on its batch.
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from cq.schedule.bounds import check_interval, check_num_calls

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule, TrajectoryStatistics
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """threshold: the summed relative L1 change that calls for a refresh; None for the least one that needs no more
    refreshes than the uniform grid of the same interval, so that the two compare at one budget.
    """

    interval: int
    threshold: float | None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.threshold is not None and not 0 < self.threshold < float("inf"):
            raise ValueError(
                f"schedule.threshold={self.threshold}: must be positive and finite. Use null to meet the budget."
            )

    def check(self, num_calls: int) -> None:
        """Raise ValueError where there is no call."""
        check_num_calls(num_calls)

    def reach(self, num_calls: int) -> int:
        """From a call to the one before."""
        return min(1, num_calls - 1)

    def refreshes(self, num_calls: int) -> int:
        """At most those of the uniform grid, where the threshold follows from it; any number else."""
        return ceil(num_calls / self.interval)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """Refreshes where the summed change reaches the threshold."""
        from cq.core.artifacts import CacheSchedule

        change_T = relative_change(request.gathered)
        if self.threshold is not None:
            calls = refreshes(change_T, self.threshold)
        else:
            calls = within_budget(change_T, ceil(request.num_calls / self.interval))
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=calls, planner="threshold", interval=self.interval
        )


def relative_change(statistics: "TrajectoryStatistics") -> list[float]:
    """Of each call: |X_t - X_{t-1}| over |X_{t-1}|, L1 norms; 0 for call 0. A map of zeros that moves counts as 1."""
    if statistics.num_calls == 1:
        return [0.0]
    change, size = statistics.l1_TD[:, 1].tolist(), statistics.size_T.tolist()
    return [0.0, *(c / s if s > 0 else float(c > 0) for c, s in zip(change[1:], size, strict=False))]


def refreshes(change_T: list[float], threshold: float) -> tuple[int, ...]:
    """Call 0, and every call at which the change summed since the last refresh reaches the threshold."""
    calls, total = [0], 0.0
    for call, change in enumerate(change_T[1:], start=1):
        total += change
        if total >= threshold:
            calls.append(call)
            total = 0.0
    return tuple(calls)


def within_budget(change_T: list[float], num_refreshes: int) -> tuple[int, ...]:
    """The refreshes of the least threshold that needs at most `num_refreshes`, found by bisection."""
    low, high = 0.0, sum(change_T) * 2 + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if len(refreshes(change_T, middle)) <= num_refreshes:
            high = middle
        else:
            low = middle
    return refreshes(change_T, high)
