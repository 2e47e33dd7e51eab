"""Schedules run for real, on images that are neither calibrated on nor evaluated; finished ones stay in shards."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.checksum import digest_of
from cq.core.contracts import FitsAlongTrajectories
from cq.core.denoise import Trajectory, walked
from cq.core.denoiser import Denoiser
from cq.core.seeding import image_seeds
from cq.core.shards import present
from cq.correct.along import Uncorrected, fitted_along
from cq.run.context import Run

Refreshes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A `Trial` of the run's model and sampler in full precision. deployed: the Acceleration of a schedule.

    A correction along trajectories is fitted to each schedule on the very images whose errors are told: it has a few
    numbers a channel, and every schedule has the same advantage of it.
    """

    run: Run
    shards: Path
    deployed: Callable[[Refreshes], Acceleration]

    @property
    def along(self) -> FitsAlongTrajectories | None:
        """The run's correction of that kind."""
        found = self.run.parts.correct_output
        return found if isinstance(found, FitsAlongTrajectories) and found.corrects else None

    def __call__(self, refresh_calls: Refreshes, *, first: int, count: int) -> Tensor:
        """See `Trial`."""
        key = [list(refresh_calls), first, count]
        path = self.shards / f"trial_{digest_of(key)[:20]}.safetensors"
        return present(path, partial(self._errors, refresh_calls, first, count))["error_N"]

    def _errors(self, refresh_calls: Refreshes, first: int, count: int) -> dict[str, Tensor]:
        path = self.shards / f"full_{first}_{count}.safetensors"
        full_TNCHW = present(path, lambda: {"x_TNCHW": self._full(first, count)})["x_TNCHW"]
        final_NCHW = self._finals(self.deployed(refresh_calls), first, count, full_TNCHW)
        full_NX = full_TNCHW[-1].double().flatten(1)
        off_NX = final_NCHW.double().flatten(1) - full_NX
        return {"error_N": off_NX.norm(dim=1) / full_NX.norm(dim=1)}

    def _full(self, first: int, count: int) -> Tensor:
        """What images first, first + 1, ... come to in full precision after every call; where nothing is led there,
        after the last call alone."""
        found = []
        for each in self._started(self.run.model.denoiser, self.run.unaccelerated, first, count):
            states = [step.x_NCHW.cpu() for step in walked(each)]
            found.append(torch.stack(states if self.along else states[-1:]))
        return torch.cat(found, dim=1)

    def _finals(self, acceleration: Acceleration, first: int, count: int, full_TNCHW: Tensor) -> Tensor:
        """What the same images come to as they are deployed."""
        denoiser = self.run.model.denoiser
        if self.along and acceleration.caches:
            batches = self._started(Uncorrected(denoiser=denoiser), acceleration, first, count)
            wanted = torch.split(full_TNCHW, [len(each.x_NCHW) for each in batches], dim=1)
            fitted_along(self.along, denoiser, batches, wanted, acceleration)  # which takes them to their ends
        else:
            batches = self._started(denoiser, acceleration, first, count)
            for each in batches:
                deque(walked(each), maxlen=0)
        return torch.cat([each.x_NCHW.cpu() for each in batches])

    def _started(self, denoiser: Denoiser, acceleration: Acceleration, first: int, count: int) -> list[Trajectory]:
        size = self.run.parts.calibrate.batch_size
        seeds = image_seeds("tuning", run_seed=self.run.parts.run_seed, count=first + count)[first:]
        return [
            self.run.loops.started(denoiser, seeds[start : start + size], acceleration)
            for start in range(0, count, size)
        ]
