"""What all solvers share that are a scheduler of diffusers': which grids they are given, and which are refused."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, ClassVar

from cq.sampler.stored import USUAL, Stored

NEAR_STEPS, NEAR_SHARE = 1.5, 0.06  # see `StockSolver`
SUGGESTED = (4, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 999, 1000)


@dataclass(frozen=True, kw_only=True)
class StockSolver:
    """A diffusers scheduler on the model's stored noise schedule: what the stock pipeline draws with it, or refused.

    A run starts from noise alone, so the first timestep has to be near the last one of training: at most one and a
    half even steps below it, or 6 % of all, and in the upper half. (20 steps of DPM-Solver++ start at 941 of 1000.)
    """

    scheduler: ClassVar[str]  # diffusers' class
    predictions: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction", "sample")  # what of the network it takes
    spacing: ClassVar[str] = "leading"  # its own, where none is stored
    equal_steps: ClassVar[bool] = False  # whether it steps by training steps // steps, wherever the grid goes on
    one_more: ClassVar[int] = 0  # timesteps that its grid is made with, beside those that are called
    whole: ClassVar[bool] = True  # whether its timesteps are whole numbers
    lacks: ClassVar[Mapping[str, Any]] = {}  # stored keys that it would drop, and the value it has in their place
    fixed: ClassVar[Mapping[str, Any]] = {}  # options of the solver that are not the stored schedule's

    def check(self, num_steps: int, stored: Mapping[str, Any] = USUAL) -> None:
        """Raise ValueError for a noise schedule that it cannot solve, or a number of steps that has no such grid."""
        read = Stored.of(stored)
        self.check_stored(read)
        fault = self.fault(num_steps, read)
        if fault:
            near = sorted(SUGGESTED, key=lambda n: abs(n - num_steps))
            good = list(islice((n for n in near if not self.fault(n, read)), 5))
            remedy = f"Choose from {', '.join(map(str, sorted(good)))}" if good else "Choose another sampler"
            raise ValueError(f"budget.num_steps={num_steps}: {fault}. {remedy}.")

    def check_stored(self, stored: Stored) -> None:
        """Raise ValueError for a stored schedule with a setting that this solver does not have."""
        name = f"sampler={type(self).__name__}"
        if stored.prediction not in self.predictions:
            raise ValueError(
                f"{name}: takes networks with prediction_type {' or '.join(self.predictions)}, and the model's stored "
                f"scheduler has prediction_type={stored.prediction!r}. Use sampler=ddim or another."
            )
        for key, own in self.lacks.items():
            found = stored.values.get(key, own)
            if found != own:
                raise ValueError(
                    f"{name}: has no {key}, and the model's stored scheduler has {key}={found!r}, with which other "
                    "images would be drawn. Use sampler=dpmpp or sampler=euler, which have it."
                )

    def fault(self, num_steps: int, stored: Stored) -> str:
        """Why a run cannot start from noise on a grid of so many steps, or step along it; empty where it can."""
        last = stored.steps - 1
        if not 1 <= num_steps <= stored.steps:
            return f"the model knows {stored.steps} timesteps, so 1 to {stored.steps} steps can be taken"
        grid = self.grid(num_steps, stored)
        made = f"{self.scheduler}'s {stored.spacing or self.spacing} grid"
        if len(grid) != num_steps:
            return f"{made} has {len(grid)} timesteps, down to {grid[-1]:g}"
        if grid[0] > last or grid[-1] < 0:
            return f"{made} goes from {grid[0]:g} to {grid[-1]:g}, and the model knows 0 to {last}"
        below, even = last - grid[0], stored.steps / num_steps
        if below > max(NEAR_STEPS * even, NEAR_SHARE * stored.steps) or grid[0] < stored.steps // 2:
            return f"{made} starts at timestep {grid[0]:g} of {stored.steps}, and a run starts from noise alone"
        if any(here <= there for here, there in pairwise(grid)):
            return f"{made} holds a timestep twice"
        step = stored.steps // num_steps
        if self.equal_steps and any(here - step != there for here, there in pairwise(grid)):
            return f"{made} has other steps than the {step} that {self.scheduler} goes by"
        if self.equal_steps and grid[-1] > step:
            return f"{made} ends at timestep {grid[-1]:g}, more than a step of {step} above the image"
        if self.equal_steps and stored.zero_snr and grid[0] == last and stored.prediction == "epsilon":
            return (
                f"{made} starts where no signal is left (rescale_betas_zero_snr), of which no noise can be taken away"
            )
        return ""

    def grid(self, num_steps: int, stored: Stored) -> list[float]:
        """The timesteps as diffusers makes them, in sampling order; without torch unless its levels are its own."""
        import numpy as np

        if stored.own_levels and not self.equal_steps:
            levels = self._made(num_steps, stored)
            falls = bool((levels.sigmas.diff() < 0).all()) and int(levels.timesteps[0]) not in levels.timesteps[1:]
            return levels.timesteps.tolist() if falls else [0.0, 0.0]
        many, more = num_steps + self.one_more, self.one_more
        spacing = stored.spacing or self.spacing
        if spacing == "trailing":
            up = np.arange(stored.steps, 0, -stored.steps / num_steps).round()[::-1] - 1
        elif spacing == "leading":
            up = np.arange(many)[more:] * (stored.steps // many) + stored.offset
        else:
            up = np.linspace(0, stored.steps - 1, many)[more:]
            up = up.round() if self.whole else up
        down: list[float] = up[::-1].tolist()
        return down

    def num_calls(self, num_steps: int) -> int:
        """One a step."""
        return num_steps

    def noise_scheduler(self, stored: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set. Raises ValueError as `check`."""
        self.check(num_steps, stored)
        return self._made(num_steps, Stored.of(stored))

    def _made(self, num_steps: int, stored: Stored) -> Any:
        import diffusers

        kind = getattr(diffusers, self.scheduler)
        fresh = kind(**{**stored.options(kind), **self.fixed})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands numpy a tensor
            fresh.set_timesteps(num_steps)
        return fresh
