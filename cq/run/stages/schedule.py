"""When the maps are refreshed, and how much each past refresh counts at the calls in between."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.planning import PlanRequest, ReadsStatistics
from cq.predict.forecast import forecast_of
from cq.run.identity import described
from cq.run.stages.sketches import Sketches
from cq.run.stages.stage import Part
from cq.run.stages.statistics import Statistics
from cq.schedule.members import members


class Schedule(Part[CacheSchedule]):
    """The planner's schedule, with the strategy's phases."""

    name = "schedule"
    field = "schedule"
    kind = CacheSchedule

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        parts = self.parts
        return {
            "planner": described(parts.planner), "cost": described(parts.cost),
            "strategy": described(parts.strategy), "calibrate": described(parts.calibrate),
        }  # fmt: skip

    def share(self, before: Acceleration) -> None:
        self.run.store.share(self.name, self.whole_key(before), self.kind, lambda _: self._planned(before))

    def make(self, before: Acceleration, shards: Path) -> CacheSchedule:
        return replace(self._planned(before), phases=self.run.phases)

    def joined(self, before: Acceleration, made: CacheSchedule) -> Acceleration:
        return Acceleration(schedule=made, forecast=forecast_of(made, self.parts.predictor))

    def _planned(self, before: Acceleration) -> CacheSchedule:
        planner, statistics, sketches = self.parts.planner, Statistics(self.run), Sketches(self.run)
        reads = any(isinstance(member, ReadsStatistics) for member in members(planner))
        return planner.plan(
            PlanRequest(
                num_calls=self.run.num_calls, cost=self.parts.cost,
                statistics=statistics.get(before) if reads else None,
                sketches=sketches.get(before) if sketches.needed else None,
            )
        )  # fmt: skip
