"""DDIM between any two timesteps; diffusers' own DDIM takes steps of one length only."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a check of a configuration needs no torch
    from torch import Tensor


@cache
def grid_ddim() -> Any:
    """The class GridDDIM, a diffusers DDIMScheduler."""
    import torch
    from diffusers import DDIMScheduler
    from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

    class GridDDIM(DDIMScheduler):  # type: ignore[misc]
        """Deterministic DDIM along a given grid, for a network that predicts the noise. One loop uses one."""

        def set_grid(self, timesteps: list[int]) -> None:
            """timesteps: in sampling order, each at least the next."""
            self.num_inference_steps = len(timesteps)
            self.timesteps = torch.tensor(timesteps)
            self._taken = 0

        def step(self, model_output: "Tensor", timestep: Any, sample: "Tensor", **_: Any) -> Any:
            """From this call's timestep to the next: arXiv:2010.02502, eq. 12, sigma 0. The last one ends clean."""
            here = self.alphas_cumprod[int(self.timesteps[self._taken])]
            self._taken += 1
            last = self._taken == len(self.timesteps)
            there = self.final_alpha_cumprod if last else self.alphas_cumprod[int(self.timesteps[self._taken])]
            clean = (sample - (1 - here).sqrt() * model_output) / here.sqrt()
            if self.config.clip_sample:
                clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
            moved = there.sqrt() * clean + (1 - there).sqrt() * model_output
            return DDIMSchedulerOutput(prev_sample=moved, pred_original_sample=clean)

    return GridDDIM
