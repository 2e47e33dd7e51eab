"""Centred power law: refreshes dense around one call, by DeepCache's formula."""

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
class CentredPower:
    """Refresh most often near call `centre`: DeepCache's schedule for pixel models and Stable Diffusion
    (arXiv:2312.00858; formula as in its code).

    exponent: where the search starts, above 1; it is lowered until there are exactly ceil(T / interval) refreshes.
    """

    interval: int
    exponent: Annotated[float, Within(0, 100, "1.4")]
    centre: int

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not 1 < self.exponent < inf:
            raise ValueError(
                f"schedule.exponent={self.exponent}: must be above 1 and finite, for it is lowered towards 1 until "
                "the formula fits. DeepCache uses 1.2 to 1.4; for 1 take schedule=uniform."
            )
        if self.centre < 1:
            raise ValueError(
                f"schedule.centre={self.centre}: the centre is a call after the first. For a schedule centred on "
                "call 0 take schedule=power."
            )

    def check(self, num_calls: int) -> None:
        """Raise ValueError where the centre is outside the trajectory or no exponent gives a schedule."""
        check_num_calls(num_calls)
        if self.centre >= num_calls:
            raise ValueError(
                f"schedule.centre={self.centre}: must be one of the {num_calls} calls. Set it below {num_calls}."
            )
        centred_power_calls(num_calls, interval=self.interval, exponent=self.exponent, centre=self.centre)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """A schedule from the formula alone; reads no statistics."""
        from cq.core.artifacts import CacheSchedule

        self.check(request.num_calls)
        calls = centred_power_calls(
            request.num_calls, interval=self.interval, exponent=self.exponent, centre=self.centre
        )
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=calls, planner="centred_power", interval=self.interval
        )


def centred_power_calls(num_calls: int, *, interval: int, exponent: float, centre: int) -> tuple[int, ...]:
    """{0} and centre + u, for u in unique(trunc(v**p)) without its first and last element.

    v are ceil(T / interval) + 1 points spaced evenly from (-centre)**(1/p) to (T - centre)**(1/p). The left end is
    a root of a negative number, so v is complex and the real part of v**p is truncated. Where this gives other than
    ceil(T / interval) refreshes, p is lowered by 0.02 and tried again.
    Raises ValueError where p falls to 1 first.
    """
    num_groups = ceil(num_calls / interval)
    p = exponent
    while p > 1:
        ends = complex(-centre) ** (1 / p), complex(num_calls - centre) ** (1 / p)
        powers = np.linspace(*ends, num_groups + 1) ** p
        inner = np.unique(np.trunc(powers.real))[1:-1]
        calls = (0, *(centre + int(u) for u in inner))
        if len(calls) == num_groups:
            return calls
        p -= 0.02
    raise ValueError(
        f"schedule.exponent={exponent}: no exponent from there down to 1 gives {num_groups} refreshes in {num_calls} "
        f"calls around schedule.centre={centre}. Raise budget.cache_interval (now {interval}), move the centre or "
        "take schedule=power."
    )
