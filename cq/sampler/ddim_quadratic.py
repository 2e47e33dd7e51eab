"""DDIM on a quadratic grid of timesteps: CacheQuant's and DeepCache's sampler of CIFAR-10 (arXiv:2010.02502, D.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cq.sampler.stock import StockSolver
from cq.sampler.stored import Stored

SHARE = 0.8  # of the training steps; where the grid starts, as published


@dataclass(frozen=True, kw_only=True)
class QuadraticDDIM(StockSolver):
    """Timesteps `trunc(linspace(0, sqrt(800), steps)^2)`, eta 0; the last step goes to the noise of
    the scheduler's end, which is none with `set_alpha_to_one`.

    distinct: move each timestep up to one more than the one below it, where rounding made them equal. Otherwise, as in
    the paper, calls at a repeated timestep change nothing: of 100 steps 4 are spent on that.
    """

    scheduler = "DDIMScheduler"
    predictions = ("epsilon",)
    lacks: ClassVar[Mapping[str, Any]] = {"final_sigmas_type": "zero"}

    distinct: bool

    def fault(self, num_steps: int, stored: Stored) -> str:
        """For fewer than 2 steps, or more than there are timesteps: the published grid is taken as it is."""
        most = int(SHARE * stored.steps) + 1
        return "" if 2 <= num_steps <= most else f"the quadratic grid takes 2 to {most} steps"

    def grid(self, num_steps: int, stored: Stored) -> list[float]:
        """In sampling order: from the noisiest on."""
        return [float(t) for t in self.timesteps(num_steps, stored.steps)]

    def timesteps(self, num_steps: int, training_steps: int = 1000) -> list[int]:
        """In sampling order: from the noisiest on."""
        import numpy as np

        grid: list[int] = (np.linspace(0, np.sqrt(SHARE * training_steps), num_steps) ** 2).astype(int).tolist()
        if self.distinct:
            for i in range(1, num_steps):
                grid[i] = max(grid[i], grid[i - 1] + 1)
        return grid[::-1]

    def noise_scheduler(self, stored: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set. Raises ValueError as `check`."""
        from cq.sampler.grid import grid_ddim

        self.check(num_steps, stored)
        read = Stored.of(stored)
        fresh = grid_ddim()(**read.options(grid_ddim()))
        fresh.set_grid(self.timesteps(num_steps, read.steps))
        return fresh
