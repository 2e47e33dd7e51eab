"""Full-precision trajectories of calibration images, which a closed loop leads the accelerated ones back to."""

from collections.abc import Iterator, Mapping, Sequence
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
from cq.run.context import Run
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
        return {"num_samples": self._corrector.num_samples, "batch_size": self._corrector.batch_size}

    def share(self, before: Acceleration) -> None:
        self.share_out(before, self._batches, range(len(batches_of(self.run, self._corrector))))

    def make(self, before: Acceleration, shards: Path) -> StateTrajectories:
        found = self._batches(shards, range(len(batches_of(self.run, self._corrector))))
        return StateTrajectories(x_TNCHW=torch.cat([batch["x_TNCHW"] for batch in found], dim=1))

    def _batches(self, shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        loops = self.run.loops
        full = loops.full(self.run.model.denoiser, self._corrector.num_samples, self._corrector.batch_size)
        for index in indices:
            yield present(shards / f"states_{index:05d}.safetensors", partial(_states, full[index]))


def _states(steps: Iterator[DenoiseStep]) -> dict[str, Tensor]:
    return {"x_TNCHW": torch.stack([step.x_NCHW.cpu() for step in steps])}
