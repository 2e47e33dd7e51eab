"""What it does to the final latent that a call stands on an older map, for every near pair of calls."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.calibrate.sketches import batch_sketches
from cq.core.acceleration import Acceleration
from cq.core.artifacts import ReuseSketches
from cq.core.planning import Probes, ReadsSketches
from cq.core.shards import present
from cq.run.costs import CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.stage import Stage
from cq.sampler.linear import read_off
from cq.schedule.members import members

log = logging.getLogger(__name__)

BATCH = 4  # trajectories at once, at most: a gradient holds what every layer returns
BACKWARD = 2  # a vector-Jacobian product, in calls


class Sketches(Stage[ReuseSketches]):
    """First-order moves of projections of the final latent, along full-precision trajectories; one pass for every
    interval up to `calibrate.max_interval`, as the statistics."""

    name = "sketches"
    batch_of = "calibrate"
    kind = ReuseSketches

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {
            "strategy": described(self.parts.strategy), "trajectories": self.probes.trajectories,
            "projections": self.probes.projections, "window": self._window, "batch": self._batch,
        }  # fmt: skip

    @property
    def needed(self) -> bool:
        return bool(self._readers)

    @property
    def probes(self) -> Probes:
        """As many as any of the planners asks for."""
        asked = [reader.probes(self.run.num_calls) for reader in self._readers]
        return Probes(
            trajectories=max(each.trajectories for each in asked), projections=max(each.projections for each in asked),
            reach=max(each.reach for each in asked),
        )  # fmt: skip

    def share(self, before: Acceleration) -> None:
        self.share_out(before, self._batches, range(self._num_batches))

    def make(self, before: Acceleration, shards: Path) -> ReuseSketches:
        full, cached = self._calls
        log.info(
            "sketches of %d trajectories: %d full calls and %d cached ones", self.probes.trajectories, full, cached
        )
        found = [part["sketch_TDK"] for part in self._batches(shards, range(self._num_batches))]
        return ReuseSketches(trajectories=self.probes.trajectories, sketch_TDK=torch.cat(found, dim=2))

    def _batches(self, shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        model, loops, every = self.run.model, self.run.loops, self.run.unaccelerated
        denoiser = model.denoiser.widened()
        solver = read_off(lambda: model.noise_scheduler(self.parts.sample.num_steps))
        seeds = loops.seeds(self.probes.trajectories)
        for index in indices:
            part = seeds[index * self._batch : (index + 1) * self._batch]
            noise_NCHW, cond = loops.begun(part)
            make = partial(
                batch_sketches, denoiser, partial(loops.one, denoiser, part, every), seeds=part, noise_NCHW=noise_NCHW,
                cond=cond, solver=solver, phases=self.run.phases, window=self._window,
                projections=self.probes.projections,
            )  # fmt: skip
            yield present(shards / f"sketches_{index:05d}.safetensors", make)

    def seconds(self, calls: CallSeconds) -> float:
        full, cached = self._calls
        return full * calls.full + cached * calls.cached

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        latents = self.run.num_calls * (self.probes.projections + 2) * 4 * prod(self.parts.model.latent_shape)
        graph = 4 * found.units  # what each layer of a unit keeps for its gradient
        one = found.copies * found.image + graph + (self._window + 1) * found.map + latents
        return {self.name: self._batch * one}

    @property
    def _calls(self) -> tuple[int, int]:
        """Of one image, in all: full ones, as which gradients count, and cached ones."""
        pairs = sum(min(call, self._window) for call in range(self.run.num_calls))
        full = self.run.num_calls * (3 + BACKWARD * self.probes.projections)
        return self.probes.trajectories * full, self.probes.trajectories * pairs

    @property
    def _readers(self) -> list[ReadsSketches]:
        return [member for member in members(self.parts.planner) if isinstance(member, ReadsSketches)]

    @property
    def _window(self) -> int:
        return min(self.parts.calibrate.window, self.run.num_calls - 1)

    @property
    def _batch(self) -> int:
        return min(BATCH, self.parts.calibrate.batch_size)

    @property
    def _num_batches(self) -> int:
        return -(-self.probes.trajectories // self._batch)
