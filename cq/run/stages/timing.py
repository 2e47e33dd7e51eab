"""Measured time of what the engine really executes, beside the full-precision model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.denoise import DenoiseStep
from cq.evaluate.latency import Timing
from cq.run.costs import CallSeconds
from cq.run.identity import described
from cq.run.stages.samples import Baseline
from cq.run.stages.stage import Stage


class TimedRuns(Stage[Timing]):
    """Interleaved runs of one batch; none where the engine only simulates."""

    name = "timing"
    kind = Timing

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        parts = self.parts
        return {
            "latency": described(parts.latency), "engine": described(self.run.engine_for(before)),
            "acceleration": before.identity,
            "baseline_steps": parts.baseline_steps, "baseline_sampler": described(parts.baseline_sampler),
        }  # fmt: skip

    def make(self, before: Acceleration, shards: Path) -> Timing:
        if not self.run.engine_for(before).real(before):
            return self.parts.latency.measure({})
        loops, full = self.run.loops, self.run.lowered(self.run.unaccelerated)
        of_baseline = replace(loops, model=self.run.baseline_model, num_steps=self.parts.baseline_steps)
        lowered = self.run.lowered(before)
        runs: dict[str, Callable[[int], Iterator[DenoiseStep]]] = {
            "this": lambda n: loops.one(lowered, loops.seeds(n), before),
            "full": lambda n: of_baseline.full(full, n, n)[0],
        }
        return self.parts.latency.measure(runs)

    @property
    def needed(self) -> bool:
        return not self.parts.simulated and self.parts.latency.repeats > 0

    def seconds(self, calls: CallSeconds) -> float:
        latency = self.parts.latency
        timed = (latency.repeats + 1) * latency.batch_size  # the first is not counted
        of_baseline = Baseline(self.run).unaccelerated.num_calls * calls.full
        return timed * (self.run.deployed_seconds(calls) + of_baseline) * calls.small
