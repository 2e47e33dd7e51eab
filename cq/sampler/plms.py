"""PLMS (arXiv:2202.09778, eqs. 9 and 12) as in Stable Diffusion: pseudo linear multistep, one call more than steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cq.sampler.stock import StockSolver
from cq.sampler.stored import Stored


@dataclass(frozen=True, kw_only=True)
class PLMS(StockSolver):
    """diffusers' PNDMScheduler without Runge-Kutta steps. Its second step is called twice; calls, not steps, count."""

    scheduler = "PNDMScheduler"
    predictions = ("epsilon", "v_prediction")
    equal_steps = True
    lacks: ClassVar[Mapping[str, Any]] = {"rescale_betas_zero_snr": False, "final_sigmas_type": "zero"}
    fixed: ClassVar[Mapping[str, Any]] = {"skip_prk_steps": True}

    def check_stored(self, stored: Stored) -> None:
        """Raise ValueError also where the stored PNDM begins with Runge-Kutta steps."""
        super().check_stored(stored)
        if stored.kind == self.scheduler and not stored.values.get("skip_prk_steps", False):
            raise ValueError(
                "sampler=PLMS: leaves out Runge-Kutta steps, and the model's stored PNDMScheduler has "
                "skip_prk_steps=False. Use sampler=ddim or sampler=dpmpp."
            )

    def fault(self, num_steps: int, stored: Stored) -> str:
        """Also for a single step: the step that is called twice is the second."""
        return super().fault(num_steps, stored) if num_steps > 1 else "PLMS needs at least 2 steps"

    def num_calls(self, num_steps: int) -> int:
        """One a step, and one more."""
        return num_steps + 1
