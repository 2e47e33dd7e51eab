"""DDIM: one call a step, eta 0 (arXiv:2010.02502)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DDIM:
    """diffusers' DDIMScheduler on the model's own noise schedule."""

    def check(self, num_steps: int) -> None:
        """Raise ValueError for a step count that does not divide the training steps."""
        if 1000 % num_steps:
            raise ValueError(
                f"budget.num_steps={num_steps}: DDIM's leading grid needs a divisor of the 1000 training steps, "
                "else the first steps are lost. Choose 50, 100, 125, 200, 250, 500 or 1000."
            )

    def num_calls(self, num_steps: int) -> int:
        """One a step."""
        return num_steps

    def noise_scheduler(self, config: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set."""
        from diffusers import DDIMScheduler

        fresh = DDIMScheduler.from_config(config)
        fresh.set_timesteps(num_steps)
        return fresh
