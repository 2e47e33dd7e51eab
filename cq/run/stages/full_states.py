"""Full-precision trajectories of calibration images, by the baseline's solver: what a closed loop leads others to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.artifacts import StateTrajectories
from cq.core.contracts import FitsAlongTrajectories
from cq.core.denoise import DenoiseStep
from cq.core.shards import present
from cq.correct.along import calls_on_grid
from cq.run.context import Run
from cq.run.identity import described
from cq.run.stages.stage import Stage


def batches_of(run: Run, corrector: FitsAlongTrajectories) -> list[tuple[int, ...]]:
    """The calibration seeds that it is fitted on, batch by batch."""
    seeds, size = run.loops.seeds(corrector.num_samples), corrector.batch_size
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


class FullStates(Stage[StateTrajectories]):
    """The state after every call, kept once for all that differ in cache and bits."""

    name = "full_states"
    kind = StateTrajectories

    @property
    def _corrector(self) -> FitsAlongTrajectories:
        assert isinstance(self.parts.correct_output, FitsAlongTrajectories)
        return self.parts.correct_output

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {
            "num_samples": self._corrector.num_samples, "batch_size": self._corrector.batch_size,
            "num_steps": self.parts.baseline_steps, "sampler": described(self.parts.baseline_sampler),
        }  # fmt: skip

    def share(self, before: Acceleration) -> None:
        self.share_out(before, self._batches, range(len(batches_of(self.run, self._corrector))))

    def make(self, before: Acceleration, shards: Path) -> StateTrajectories:
        found = self._batches(shards, range(len(batches_of(self.run, self._corrector))))
        return StateTrajectories(x_TNCHW=torch.cat([batch["x_TNCHW"] for batch in found], dim=1))

    def wanted(self, before: Acceleration) -> Tensor:
        """The states that the run's own calls are to end at, [T, N, ...]."""
        fine, own = (
            [float(t) for t in model.noise_scheduler(steps).timesteps]
            for model, steps in (
                (self.run.baseline_model, self.parts.baseline_steps),
                (self.run.model, self.parts.sample.num_steps),
            )
        )
        return self.get(before).x_TNCHW[calls_on_grid(fine, own)]

    def _batches(self, shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        loops = replace(self.run.loops, model=self.run.baseline_model, num_steps=self.parts.baseline_steps)
        full = loops.full(self.run.model.denoiser, self._corrector.num_samples, self._corrector.batch_size)
        for index in indices:
            yield present(shards / f"states_{index:05d}.safetensors", partial(_states, full[index]))


def _states(steps: Iterator[DenoiseStep]) -> dict[str, Tensor]:
    return {"x_TNCHW": torch.stack([step.x_NCHW.cpu() for step in steps])}
