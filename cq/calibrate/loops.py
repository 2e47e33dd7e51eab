"""The denoising loops of calibration and timing, with seeds and conditions of their own."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration, every_call
from cq.core.contracts import LockstepTrajectories, Quantizer
from cq.core.denoise import DenoiseStep, Trajectory, walked
from cq.core.denoiser import Denoiser
from cq.core.seeding import image_seeds, initial_noise
from cq.models.diffusion import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class Loops:
    """Loops over calibration seeds of one run. model: its sampler is the one that the loops use."""

    model: DiffusionModel
    num_steps: int
    run_seed: int

    def seeds(self, count: int) -> tuple[int, ...]:
        """Calibration seeds."""
        return image_seeds("calibration", run_seed=self.run_seed, count=count)

    def begun(self, seeds: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Where a batch begins: noise of standard deviation 1, and what the network is conditioned on."""
        component, device = self.model.component, self.model.device
        labels = torch.tensor([seed % max(component.num_classes, 1) for seed in seeds])
        noise_NCHW = initial_noise(seeds, component.latent_shape).to(device)
        return noise_NCHW, self.model.condition(labels.to(device), "calibration")

    def started(self, denoiser: Denoiser, seeds: tuple[int, ...], acceleration: Acceleration) -> Trajectory:
        """One batch of trajectories, at its start."""
        noise_NCHW, cond = self.begun(seeds)
        scheduler = self.model.noise_scheduler(self.num_steps)
        return Trajectory(denoiser, scheduler, noise_NCHW, cond=cond, acceleration=acceleration)

    def one(self, denoiser: Denoiser, seeds: tuple[int, ...], acceleration: Acceleration) -> Iterator[DenoiseStep]:
        """One batch of trajectories, call after call."""
        return walked(self.started(denoiser, seeds, acceleration))

    def batches(
        self, denoiser: Denoiser, num_samples: int, batch_size: int, acceleration: Acceleration
    ) -> list[Iterator[DenoiseStep]]:
        """One loop a batch."""
        seeds = self.seeds(num_samples)
        parts = [seeds[start : start + batch_size] for start in range(0, num_samples, batch_size)]
        return [self.one(denoiser, part, acceleration) for part in parts]

    def full(self, denoiser: Denoiser, num_samples: int, batch_size: int) -> list[Iterator[DenoiseStep]]:
        """One loop a batch, every call of it full."""
        every = Acceleration(schedule=every_call(self.model.sampler.num_calls(self.num_steps)))
        return self.batches(denoiser, num_samples, batch_size, every)

    def lockstep(self, acceleration: Acceleration, calibrated: Quantizer) -> LockstepTrajectories:
        """The trajectories of a calibration; deployed ones are cached and corrected as the acceleration says."""

        def run(denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
            if deployed:
                batches = self.batches(denoiser, calibrated.num_samples, calibrated.batch_size, acceleration)
            else:
                batches = self.full(denoiser, calibrated.num_samples, calibrated.batch_size)
            for steps in zip(*batches, strict=True):
                yield steps[0].call

        return run
