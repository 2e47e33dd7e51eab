"""DPM-Solver++, second order, multistep: the usual choice for few steps (arXiv:2211.01095)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DPMpp:
    """diffusers' DPMSolverMultistepScheduler with its `dpmsolver++` algorithm on the model's own noise schedule."""

    def check(self, num_steps: int) -> None:
        """Raise ValueError for fewer than 2 steps."""
        if not 2 <= num_steps <= 1000:
            raise ValueError(f"budget.num_steps={num_steps}: DPM-Solver++ takes 2 to 1000 steps. 20 is usual.")

    def num_calls(self, num_steps: int) -> int:
        """One a step."""
        return num_steps

    def noise_scheduler(self, config: Mapping[str, Any], num_steps: int) -> Any:
        """A fresh noise scheduler with its timesteps set."""
        import warnings

        from diffusers import DPMSolverMultistepScheduler

        fresh = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands numpy a tensor
            fresh.set_timesteps(num_steps)
        return fresh
