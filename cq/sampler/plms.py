"""PLMS: pseudo linear multistep as in Stable Diffusion, one call more than it has steps (arXiv:2202.09778)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PLMS:
    """diffusers' PNDMScheduler without Runge-Kutta steps. Its second step is called twice; calls, not steps, count."""

    def check(self, num_steps: int) -> None:
        """Raise ValueError for a step count that does not divide the training steps, or fewer than 2."""
        if num_steps < 2 or 1000 % num_steps:
            raise ValueError(
                f"budget.num_steps={num_steps}: PLMS needs at least 2 steps and a divisor of the 1000 training steps. "
                "Choose 20, 25, 40, 50 or 100."
            )

    def num_calls(self, num_steps: int) -> int:
        """One a step, and one more."""
        return num_steps + 1

    def noise_scheduler(self, config: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set."""
        from diffusers import PNDMScheduler

        fresh = PNDMScheduler.from_config(config, skip_prk_steps=True)
        fresh.set_timesteps(num_steps)
        return fresh
