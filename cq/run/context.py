"""What the stages of one run share: its components, its model once it is loaded, and what every key says."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Any

import torch

from cq.calibrate.loops import Loops
from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import Engine
from cq.core.denoiser import Denoiser
from cq.core.phases import Phases, all_sites
from cq.core.planning import PlansLate
from cq.core.precision import multiply
from cq.core.processes import arithmetic, device
from cq.engine.plain import Plain
from cq.models.diffusion import DiffusionModel
from cq.models.trial import tried
from cq.run.components import Components
from cq.run.costs import CallSeconds
from cq.run.identity import described, source_digest
from cq.run.preflight import known_schedule
from cq.run.tracking import NO_LOG, RunLog


class Run:
    """One configuration at work. weights: the digest of its model's, where that is known."""

    def __init__(self, parts: Components, weights: str | None = None) -> None:
        self.parts = parts
        self._weights = weights
        self.on_load: Callable[[DiffusionModel], None] = lambda model: None  # told once, when a stage needs the model
        self.live: RunLog = NO_LOG  # told how far it is
        self.store = parts.store
        self.num_calls = parts.sampler.num_calls(parts.sample.num_steps)
        self._lowered: dict[tuple[str, ...], Denoiser] = {}

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What every stage depends on, as JSON."""
        parts = self.parts
        return {
            "model": described(parts.model), "weights": self._weights or parts.model.weights_digest(),
            "num_steps": parts.sample.num_steps, "run_seed": parts.run_seed, "sampler": described(parts.sampler),
            "dtype": parts.dtype, "arithmetic": self.store.processes.agreed(arithmetic()),
            "source": source_digest("cq.run.pipeline"),
            **({} if parts.precision == "highest" else {"precision": parts.precision}),
        }  # fmt: skip

    @cached_property
    def model(self) -> DiffusionModel:
        """Loaded and tried at the first stage that computes: a stored artefact is read, or refused, without it."""
        with self.store.timed("load"):
            multiply(self.parts.precision)
            model = self.parts.model.load().on(device(), getattr(torch, self.parts.dtype))
            denoiser = model.denoiser.with_sites(all_sites(self.phases))
            model = dataclasses.replace(model, denoiser=denoiser, sampler=self.parts.sampler)
            schedule = self.known_schedule
            uncached = schedule is not None and len(schedule.refresh_calls) == self.num_calls
            model = tried(model, () if uncached else self.phases, num_steps=self.parts.sample.num_steps)
            self.on_load(model)
            return model

    @property
    def baseline_model(self) -> DiffusionModel:
        """The same with the baseline's own solver."""
        return dataclasses.replace(self.model, sampler=self.parts.baseline_sampler)

    def engine_for(self, acceleration: Acceleration) -> Engine:
        """Who executes it: what has no bits runs plain, unless the engine was chosen for just that."""
        plain: Engine = Plain(compile=self.parts.compile)
        return self.parts.engine if acceleration.quantized or self.parts.is_own_engine else plain

    def lowered(self, acceleration: Acceleration) -> Denoiser:
        """The denoiser that computes as the acceleration says; one for all that differ in their cache alone."""
        key = tuple(part.digest for part in (acceleration.params, acceleration.quant, acceleration.output))
        if key not in self._lowered:
            self._lowered[key] = self.engine_for(acceleration).lower(self.model.denoiser, acceleration)
        return self._lowered[key]

    @property
    def phases(self) -> Phases:
        """Which sites are reused when."""
        return self.parts.strategy.phases(
            default=self.parts.model.site, blocks=self.parts.model.blocks, num_calls=self.num_calls
        )

    @property
    def known_schedule(self) -> CacheSchedule | None:
        """The schedule where no calibration decides it."""
        return known_schedule(self.parts.planner, self.parts.cost, self.num_calls)

    @property
    def unaccelerated(self) -> Acceleration:
        """Where the stages begin: every call full, in full precision."""
        return Acceleration(schedule=every_call(self.num_calls))

    @property
    def loops(self) -> Loops:
        """The loops of calibration."""
        return Loops(model=self.model, num_steps=self.parts.sample.num_steps, run_seed=self.parts.run_seed)

    # What can be said before anything runs.

    @property
    def expected_refreshes(self) -> int:
        """How many calls will be full, or about how many where the planner reads something computed."""
        if self.known_schedule is not None:
            return len(self.known_schedule.refresh_calls)
        planner = self.parts.planner
        return planner.refreshes(self.num_calls) if isinstance(planner, PlansLate) else self.num_calls

    def deployed_seconds(self, calls: CallSeconds) -> float:
        """Of an image on the cached path, in full precision."""
        refreshes = self.expected_refreshes
        return refreshes * calls.full + (self.num_calls - refreshes) * calls.cached

    @property
    def set_bytes(self) -> int:
        """Both image sets with their latents, and the shards of one being joined."""
        image = 4 * prod(self.parts.model.latent_shape) + prod(self.parts.model.image_shape)
        return 3 * image * self.parts.sample.num_images
