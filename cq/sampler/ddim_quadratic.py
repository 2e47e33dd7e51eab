"""DDIM on a quadratic grid of timesteps: CacheQuant's and DeepCache's sampler of CIFAR-10 (arXiv:2010.02502, D.3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAST = 800  # the noisiest timestep of the grid, of 1000


@dataclass(frozen=True, kw_only=True)
class QuadraticDDIM:
    """Timesteps `trunc((i sqrt(800) / (steps - 1))^2)`, eta 0; behind the last one no noise is left.

    distinct: move each timestep up to one more than the one below it, where rounding made them equal. Otherwise, as in
    the paper, calls at a repeated timestep change nothing: of 100 steps 4 are spent on that.
    """

    distinct: bool

    def check(self, num_steps: int) -> None:
        """Raise ValueError for fewer than 2 steps, or more than there are timesteps."""
        if not 2 <= num_steps <= LAST + 1:
            raise ValueError(
                f"budget.num_steps={num_steps}: the quadratic grid takes 2 to {LAST + 1} steps. The paper takes 100."
            )

    def num_calls(self, num_steps: int) -> int:
        """One a step."""
        return num_steps

    def timesteps(self, num_steps: int) -> list[int]:
        """In sampling order: from the noisiest on."""
        grid = [math.floor(LAST * (i / (num_steps - 1)) ** 2) for i in range(num_steps)]
        if self.distinct:
            for i in range(1, num_steps):
                grid[i] = max(grid[i], grid[i - 1] + 1)
        return grid[::-1]

    def noise_scheduler(self, config: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set."""
        from cq.sampler.grid import grid_ddim

        fresh = grid_ddim().from_config(config)
        fresh.set_grid(self.timesteps(num_steps))
        return fresh
