"""Power law: refreshes dense at the noisy end, by DeepCache's formula."""

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Annotated

import numpy as np

from cq.core.values import Within
from cq.schedule.bounds import check_interval, check_num_calls

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class Power:
    """Refresh at equal distances of call**(1 / exponent): DeepCache's non-uniform schedule (arXiv:2312.00858).

    exponent: above 1 refreshes early calls more often, 1 is uniform, below 1 favours late calls.
    Where two points truncate to the same call there is one refresh there, so fewer than ceil(T / interval).
    """

    interval: int
    exponent: Annotated[float, Within(0.05, 100, "1.4")]

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not 0 < self.exponent < inf:
            raise ValueError(
                f"schedule.exponent={self.exponent}: must be positive and finite. 1 is uniform, DeepCache uses 1.5."
            )

    def check(self, num_calls: int) -> None:
        """Raise ValueError where there is no call."""
        check_num_calls(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """A schedule from the formula alone; reads no statistics."""
        from cq.core.artifacts import CacheSchedule

        self.check(request.num_calls)
        calls = power_calls(request.num_calls, interval=self.interval, exponent=self.exponent)
        return CacheSchedule(num_calls=request.num_calls, refresh_calls=calls, planner="power", interval=self.interval)


def power_calls(num_calls: int, *, interval: int, exponent: float) -> tuple[int, ...]:
    """unique(trunc(u**p)) for n = ceil(T / interval) + 1 points u, evenly from 0 to T**(1/p), without the last."""
    points = np.linspace(0.0, num_calls ** (1 / exponent), ceil(num_calls / interval) + 1)[:-1]
    return tuple(int(call) for call in np.unique(np.trunc(points**exponent)))
