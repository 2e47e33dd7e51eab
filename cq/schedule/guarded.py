"""Guarded: candidates and a search around the best, run for real on images set aside; uniform unless something wins."""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cq.core.planning import SchedulePlanner
from cq.core.values import Count
from cq.schedule.bounds import check_interval
from cq.schedule.coherent import Refreshes
from cq.schedule.uniform import Uniform

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.planning import PlanRequest

log = logging.getLogger(__name__)

NORMAL_95 = 1.96  # standard errors to either side of a mean
UNIFORM = "uniform"


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """The candidate of the least real error, moved refresh by refresh; the uniform grid unless that is surely beaten.

    Every candidate is run by the deployed sampler, in full precision with all corrections, on the first `num_choosing`
    tuning images, and so is each of `moves` tries to set one refresh earlier or later; what counts is the error of the
    final latent. What comes out is compared with the uniform grid, pair by pair, on `num_confirming` other images,
    since the best of many tries looks better than it is: it is taken only where the 95 % interval of the difference
    lies below zero.

    candidates: planners by name. One that plans more refreshes than the uniform grid has is left out.
    """

    interval: int
    candidates: Mapping[str, SchedulePlanner]
    num_choosing: Count
    num_confirming: Count
    moves: int

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.moves < 0:
            raise ValueError(f"schedule.moves={self.moves}: must not be negative. 0 only chooses, 35 is usual.")
        if self.num_confirming < 2:
            raise ValueError("schedule.num_confirming=1: one image has no interval. 32 is usual.")
        if UNIFORM in self.candidates:
            raise ValueError(f"schedule.candidates.{UNIFORM}: is always among them. Remove it.")

    def check(self, num_calls: int) -> None:
        """Raise ValueError where a candidate has no schedule of `num_calls` calls."""
        for candidate in (Uniform(interval=self.interval), *self.candidates.values()):
            candidate.check(num_calls)

    @property
    def num_images(self) -> int:
        """To choose by, and to confirm the choice."""
        return self.num_choosing + self.num_confirming

    def refreshes(self, num_calls: int) -> int:
        """As on the uniform grid, at most."""
        return -(-num_calls // self.interval)

    def trials(self, num_calls: int) -> int:
        """Of all candidates and moves on the first images, and of two schedules on the others."""
        return (1 + len(self.candidates) + self.moves) * self.num_choosing + 2 * self.num_confirming

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The winner, or the uniform grid."""
        from cq.core.artifacts import CacheSchedule

        @cache
        def error(refreshes: Refreshes) -> float:
            return float(request.tried(refreshes, first=0, count=self.num_choosing).mean())

        uniform = Uniform(interval=self.interval).plan(request)
        pool = {UNIFORM: uniform.refresh_calls}
        for name, candidate in self.candidates.items():
            planned = candidate.plan(request).refresh_calls
            pool |= {name: planned} if len(planned) <= len(uniform.refresh_calls) else {}
        for name, planned in pool.items():
            log.info("schedule %s: error of the final latent %.4g", name, error(planned))
        best = min(pool.values(), key=error)  # the first of equals, so uniform before any other
        moved = self._moved(best, error, request.num_calls)
        more, half = self._compared(request, moved, uniform.refresh_calls)
        log.info("schedule moved: %.4g; on other images %+.3g to uniform, +- %.2g", error(moved), more, half)
        if not more + half < 0:
            return uniform
        return CacheSchedule(
            num_calls=request.num_calls, refresh_calls=moved, planner="guarded", interval=self.interval
        )

    def _moved(self, refreshes: Refreshes, error: Callable[[Refreshes], float], num_calls: int) -> Refreshes:
        """The best after `moves` tries: one refresh at a time by so many calls, fewer where nothing improves."""
        tried, by, draw = {refreshes}, max(1, self.interval // 2), random.Random(0)
        left = self.moves
        while by:
            improved = False
            tries = [(index, step) for index in range(1, len(refreshes)) for step in (-by, by)]
            for index, step in draw.sample(tries, len(tries)):  # where few are left, from anywhere
                moved = (*refreshes[:index], refreshes[index] + step, *refreshes[index + 1 :])
                ends = (*moved[1:], num_calls)
                if moved in tried or not all(0 < b - a <= 2 * self.interval for a, b in zip(moved, ends, strict=True)):
                    continue
                if not left:
                    return refreshes
                left -= 1
                tried.add(moved)
                if error(moved) < error(refreshes):
                    refreshes, improved = moved, True
            by = by if improved else by // 2
        return refreshes

    def _compared(self, request: "PlanRequest", ours: Refreshes, uniform: Refreshes) -> tuple[float, float]:
        """Mean difference of the errors on the confirming images, and half of its 95 % interval."""
        if ours == uniform:
            return 0.0, 0.0
        own_N, other_N = (
            request.tried(each, first=self.num_choosing, count=self.num_confirming) for each in (ours, uniform)
        )
        difference_N = own_N - other_N
        return float(difference_N.mean()), NORMAL_95 * float(difference_N.std()) / self.num_confirming**0.5
