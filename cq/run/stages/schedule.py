"""When the maps are refreshed, and how much each past refresh counts at the calls in between."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import FitsAlongTrajectories
from cq.core.planning import PlanRequest, ReadsStatistics, RunsTrials
from cq.predict.forecast import forecast_of
from cq.run.costs import CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.corrections import CacheCorrection
from cq.run.stages.sketches import Sketches
from cq.run.stages.stage import Part
from cq.run.stages.statistics import Statistics
from cq.run.stages.trials import Trials
from cq.schedule.members import members

log = logging.getLogger(__name__)


class Schedule(Part[CacheSchedule]):
    """The planner's schedule, with the strategy's phases."""

    name = "schedule"
    batch_of = "calibrate"
    field = "schedule"
    decided_by = ("strategy", "calibrate", "cost", "planner", "correct_cache", "predictor")
    kind = CacheSchedule

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        parts = self.parts
        key = {
            "planner": described(parts.planner), "cost": described(parts.cost),
            "strategy": described(parts.strategy), "calibrate": described(parts.calibrate),
        }  # fmt: skip
        if self._trying is None:
            return key
        led = {"output": described(parts.correct_output)} if self._leads else {}
        return {**key, "predictor": described(parts.predictor), "corrector": described(parts.correct_cache), **led}

    def share(self, before: Acceleration) -> None:
        """What the plan reads is made by all; the main process plans, and runs the trials, alone."""
        self.run.store.share(self.name, self.whole_key(before), self.kind, lambda _: self._read(before))

    def make(self, before: Acceleration, shards: Path) -> CacheSchedule:
        request, planner = self._read(before), self._trying
        if planner is not None:
            images, cached = planner.num_images, planner.trials(self.run.num_calls)
            whole = images * self.run.num_calls + cached * self.run.expected_refreshes
            log.info("trials: %d images in full, at most %d with a cache: %d full calls", images, cached, whole)
            request = replace(
                request, trial=Trials(run=self.run, shards=shards, deployed=partial(self._deployed, before))
            )
        return replace(self.parts.planner.plan(request), phases=self.run.phases)

    def joined(self, before: Acceleration, made: CacheSchedule) -> Acceleration:
        return Acceleration(schedule=made, forecast=forecast_of(made, self.parts.predictor))

    def seconds(self, calls: CallSeconds) -> float:
        planner = self._trying
        if planner is None:
            return 0.0
        cached = planner.trials(self.run.num_calls) * self.run.deployed_seconds(calls)
        return planner.num_images * self.run.num_calls * calls.full + cached

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        batch = min(self.parts.calibrate.batch_size, 0 if self._trying is None else self._trying.num_images)
        maps = (self.parts.predictor.depth + 1) * found.map
        return {self.name: batch * (found.copies * found.image + maps)} if batch else {}

    @property
    def _leads(self) -> bool:
        return isinstance(self.parts.correct_output, FitsAlongTrajectories) and self.parts.correct_output.corrects

    @property
    def _trying(self) -> RunsTrials | None:
        planner: Any = self.parts.planner
        return planner if isinstance(planner, RunsTrials) else None

    def _read(self, before: Acceleration) -> PlanRequest:
        sketches = Sketches(self.run)
        reads = any(isinstance(member, ReadsStatistics) for member in members(self.parts.planner))
        return PlanRequest(
            num_calls=self.run.num_calls, cost=self.parts.cost,
            statistics=Statistics(self.run).get(before) if reads else None,
            sketches=sketches.get(before) if sketches.needed else None,
        )  # fmt: skip

    def _deployed(self, before: Acceleration, refresh_calls: tuple[int, ...]) -> Acceleration:
        """As it would be sampled in full precision; a correction that takes a pass of its own is left out."""
        schedule = CacheSchedule(
            num_calls=self.run.num_calls, refresh_calls=refresh_calls, planner="trial", interval=None,
            phases=self.run.phases,
        )  # fmt: skip
        made, correction = self.joined(before, schedule), CacheCorrection(self.run)
        return correction.joined(made, correction.at_once(made)) if correction.needed else made
