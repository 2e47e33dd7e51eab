"""Schedules run for real, on images that are neither calibrated on nor evaluated; finished ones stay in shards."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.checksum import digest_of
from cq.core.seeding import image_seeds
from cq.core.shards import present
from cq.run.context import Run

Refreshes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A `Trial` of the run's model and sampler in full precision. deployed: the Acceleration of a schedule."""

    run: Run
    shards: Path
    deployed: Callable[[Refreshes], Acceleration]

    def __call__(self, refresh_calls: Refreshes, *, first: int, count: int) -> Tensor:
        """See `Trial`."""
        key = [list(refresh_calls), first, count]
        path = self.shards / f"trial_{digest_of(key)[:20]}.safetensors"
        return present(path, partial(self._errors, refresh_calls, first, count))["error_N"]

    def _errors(self, refresh_calls: Refreshes, first: int, count: int) -> dict[str, Tensor]:
        path = self.shards / f"full_{first}_{count}.safetensors"
        full_NX = present(path, lambda: {"final_NX": self._finals(self.run.unaccelerated, first, count)})["final_NX"]
        off_NX = self._finals(self.deployed(refresh_calls), first, count) - full_NX
        return {"error_N": off_NX.norm(dim=1) / full_NX.norm(dim=1)}

    def _finals(self, acceleration: Acceleration, first: int, count: int) -> Tensor:
        """The final latents of images first, first + 1, ..., float64 [count, ...] flattened."""
        loops, size = self.run.loops, self.run.parts.calibrate.batch_size
        seeds = image_seeds("tuning", run_seed=self.run.parts.run_seed, count=first + count)[first:]
        found = []
        for start in range(0, count, size):
            *_, last = loops.one(self.run.model.denoiser, seeds[start : start + size], acceleration)
            found.append(last.x_NCHW.double().flatten(1).cpu())
        return torch.cat(found)
