"""With cost: a planner under a cost of its own, so that one run can compare several."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cq.core.planning import Cost, SchedulePlanner

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.planning import PlanRequest


@dataclass(frozen=True, kw_only=True)
class WithCost:
    """The schedule of `planner` under `cost`, whatever the run's own cost is."""

    planner: SchedulePlanner
    cost: Cost

    @property
    def candidates(self) -> Mapping[str, SchedulePlanner]:
        """The planner, whose needs are this one's."""
        return {"planner": self.planner}

    def check(self, num_calls: int) -> None:
        """As the planner."""
        self.planner.check(num_calls)

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """The planner's schedule."""
        return self.planner.plan(replace(request, cost=self.cost))
