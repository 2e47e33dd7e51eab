"""The one full-precision calibration pass that schedules and cache corrections are read off."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from cq.calibrate.trajectory import batch_sums, merged_statistics
from cq.core.acceleration import Acceleration
from cq.core.artifacts import TrajectoryStatistics
from cq.core.contracts import ReadsStatistics
from cq.core.shards import present
from cq.run.costs import PAIRS_FACTOR, CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.stage import Stage
from cq.schedule.members import members


class Statistics(Stage[TrajectoryStatistics]):
    """Distances and moments of the cut-point map along full-precision trajectories."""

    name = "statistics"
    batch_of = "calibrate"
    kind = TrajectoryStatistics

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {"strategy": described(self.parts.strategy), "calibrate": described(self.parts.calibrate)}

    def share(self, before: Acceleration) -> None:
        self.share_out(before, self._batches, range(self.parts.calibrate.num_batches))

    def make(self, before: Acceleration, shards: Path) -> TrajectoryStatistics:
        return merged_statistics(
            self._batches(shards, range(self.parts.calibrate.num_batches)), phases=self.run.phases,
            noise_scheduler=self.run.model.noise_scheduler(self.parts.sample.num_steps),
        )  # fmt: skip

    def _batches(self, shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        calibrate = self.parts.calibrate
        batches = self.run.loops.full(self.run.model.denoiser, calibrate.num_samples, calibrate.batch_size)
        options: dict[str, Any] = {
            "phases": self.run.phases, "num_calls": self.run.num_calls, "window": calibrate.window,
            "reduce": calibrate.reduce, "offload": self.parts.offload,
        }  # fmt: skip
        for index in indices:
            path = shards / f"sums_{index:05d}.safetensors"
            yield present(path, partial(batch_sums, batches[index], **options))

    @property
    def needed(self) -> bool:
        """Where the planner or the correction of stale maps reads them; that of a forecast has a pass of its own."""
        corrects = self.parts.correct_cache.corrects and self.parts.predictor.depth == 1
        return corrects or any(isinstance(member, ReadsStatistics) for member in members(self.parts.planner))

    def seconds(self, calls: CallSeconds) -> float:
        return self.parts.calibrate.num_samples * self.run.num_calls * calls.full * PAIRS_FACTOR

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        calibrate, on_cpu = self.parts.calibrate, found.on_cpu
        ring = min(calibrate.window, self.run.num_calls - 1) * found.map
        ring = 0 if self.parts.offload and not on_cpu else ring
        compared = 4 * found.map  # a map in float64, and its product with another
        batch = min(calibrate.batch_size, calibrate.num_samples)
        return {self.name: batch * (found.copies * found.image + ring + compared)}
