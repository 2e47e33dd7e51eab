"""The denoising loops of calibration and timing: seeds of their own, conditions of their own, nothing else new."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Denoiser, Predictor
from cq.core.denoise import DenoiseStep, denoise
from cq.core.seeding import image_seeds, initial_noise
from cq.models.diffusion import DiffusionModel

NO_CORRECTION = ChannelAffine(schedule="", tables={}, r2={})


def every_call(num_calls: int) -> CacheSchedule:
    """The schedule without a cache."""
    return CacheSchedule(num_calls=num_calls, refresh_calls=tuple(range(num_calls)), planner="none", interval=None)


@dataclass(frozen=True, kw_only=True)
class Loops:
    """Loops over calibration seeds of one run. model: its sampler is the one that the loops use."""

    model: DiffusionModel
    num_steps: int
    predictor: Predictor
    run_seed: int

    def seeds(self, count: int) -> tuple[int, ...]:
        """Calibration seeds."""
        return image_seeds("calibration", run_seed=self.run_seed, count=count)

    def one(
        self, denoiser: Denoiser, seeds: tuple[int, ...], schedule: CacheSchedule, correction: ChannelAffine
    ) -> Iterator[DenoiseStep]:
        """One batch of trajectories."""
        component, device = self.model.component, self.model.device
        labels = torch.tensor([seed % max(component.num_classes, 1) for seed in seeds])
        return denoise(
            denoiser, self.model.noise_scheduler(self.num_steps),
            initial_noise(seeds, component.latent_shape).to(device),
            cond=self.model.condition(labels.to(device), "calibration"), schedule=schedule, correction=correction,
            predictor=self.predictor,
        )  # fmt: skip

    def batches(
        self, denoiser: Denoiser, num_samples: int, batch_size: int, schedule: CacheSchedule,
        correction: ChannelAffine,
    ) -> list[Iterator[DenoiseStep]]:  # fmt: skip
        """One loop a batch."""
        seeds = self.seeds(num_samples)
        parts = [seeds[start : start + batch_size] for start in range(0, num_samples, batch_size)]
        return [self.one(denoiser, part, schedule, correction) for part in parts]

    def full(self, denoiser: Denoiser, num_samples: int, batch_size: int) -> list[Iterator[DenoiseStep]]:
        """One loop a batch, every call of it full."""
        schedule = every_call(self.model.sampler.num_calls(self.num_steps))
        return self.batches(denoiser, num_samples, batch_size, schedule, NO_CORRECTION)

    def lockstep(
        self, schedule: CacheSchedule, correction: ChannelAffine, *, num_samples: int, batch_size: int
    ) -> Callable[..., Iterator[int]]:
        """A `LockstepTrajectories` on the given schedule and correction."""

        def run(denoiser: Any, *, deployed: bool) -> Iterator[int]:
            if deployed:
                batches = self.batches(denoiser, num_samples, batch_size, schedule, correction)
            else:
                batches = self.full(denoiser, num_samples, batch_size)
            for steps in zip(*batches, strict=True):
                yield steps[0].call

        return run
