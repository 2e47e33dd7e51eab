"""The only denoising loop. Calibration, sampling, timing and tests are consumers of what it yields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.contracts import NoiseScheduler
from cq.core.denoiser import Denoiser, DenoiserOutput


@dataclass(frozen=True)
class DenoiseStep:
    """One call of the denoiser. x_NCHW: the state after it. output: what the denoiser returned."""

    call: int
    timestep: Tensor
    x_NCHW: Tensor
    output: DenoiserOutput


class Trajectory:
    """One batch on its way through the calls, in two halves: what the network says of the state, and the step it takes.

    x_NCHW: noise of standard deviation 1. noise_scheduler: a diffusers scheduler whose timesteps are set; it is used by
    this trajectory alone, which scales the noise, and what the denoiser is called with, as the scheduler wants it.
    acceleration: when the maps are refreshed, and what stands in for them; the bits are the denoiser's business.
    Raises ValueError for one of another number of calls. The cached maps are its own, so nothing can leak.
    """

    def __init__(
        self, denoiser: Denoiser, noise_scheduler: NoiseScheduler, x_NCHW: Tensor, *, cond: Tensor | None,
        acceleration: Acceleration,
    ) -> None:  # fmt: skip
        self._denoiser, self._cond, self._acceleration = denoiser, cond, acceleration
        self.noise_scheduler = noise_scheduler
        self._timesteps = noise_scheduler.timesteps
        if acceleration.num_calls != len(self._timesteps):
            raise ValueError(
                f"the cache schedule is for {acceleration.num_calls} calls, the sampler makes {len(self._timesteps)}. "
                "Plan a schedule for this step count."
            )
        self.call = 0
        self.x_NCHW = x_NCHW * noise_scheduler.init_noise_sigma
        self._past: list[Mapping[str, Tensor]] = []  # the maps of the last refreshes, newest first

    @property
    def num_calls(self) -> int:
        """Of the whole."""
        return self._acceleration.num_calls

    @property
    def timestep(self) -> Tensor:
        """Of the call that is due."""
        found: Tensor = self._timesteps[self.call]
        return found

    @property
    def scaled_NCHW(self) -> Tensor:
        """The state as the denoiser is given it."""
        return self.noise_scheduler.scale_model_input(self.x_NCHW, self.timestep)

    @property
    def reuse(self) -> dict[str, Tensor]:
        """The maps that stand in at this call; none at a refresh."""
        return self._acceleration.reused(self.call, self._past, sites=self._denoiser.sites)

    def predict(self) -> DenoiserOutput:
        """What the denoiser says at this call."""
        return self._denoiser(
            self.scaled_NCHW, call=self.call, timestep=self.timestep, cond=self._cond, reuse=self.reuse
        )

    def advance(self, output: DenoiserOutput) -> DenoiseStep:
        """Take the step that `output` asks for."""
        if output.features:
            self._past = [output.features, *self._past][: self._acceleration.depth]
        call, timestep = self.call, self.timestep
        self.x_NCHW = self.noise_scheduler.step(output.eps_NCHW, timestep, self.x_NCHW).prev_sample
        self.call += 1
        return DenoiseStep(call, timestep, self.x_NCHW, output)


@torch.no_grad()
def walked(trajectory: Trajectory) -> Iterator[DenoiseStep]:
    """Every call of it that is left."""
    while trajectory.call < trajectory.num_calls:
        yield trajectory.advance(trajectory.predict())


def denoise(
    denoiser: Denoiser, noise_scheduler: NoiseScheduler, x_NCHW: Tensor, *, cond: Tensor | None,
    acceleration: Acceleration,
) -> Iterator[DenoiseStep]:  # fmt: skip
    """Every call of a `Trajectory`, which see."""
    yield from walked(Trajectory(denoiser, noise_scheduler, x_NCHW, cond=cond, acceleration=acceleration))
