"""DPM-Solver++(2M), second order and multistep: the usual choice for few steps (arXiv:2211.01095, algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cq.sampler.stock import StockSolver
from cq.sampler.stored import Stored

OURS = ("dpmsolver++", "deis")  # diffusers takes the second, another class's, for the first


@dataclass(frozen=True, kw_only=True)
class DPMpp(StockSolver):
    """diffusers' DPMSolverMultistepScheduler with its deterministic `dpmsolver++` algorithm, on any grid."""

    scheduler = "DPMSolverMultistepScheduler"
    spacing = "linspace"
    one_more = 1
    fixed: ClassVar[Mapping[str, Any]] = {
        "algorithm_type": OURS[0],
        "variance_type": None,  # a learned one is dropped where the network's output is read
    }

    def check_stored(self, stored: Stored) -> None:
        """Raise ValueError also for another algorithm of the stored solver."""
        super().check_stored(stored)
        algorithm = stored.values.get("algorithm_type", OURS[0])
        if algorithm not in OURS:
            raise ValueError(
                f"sampler=DPMpp: is {OURS[0]}, and the model's stored scheduler has algorithm_type={algorithm!r}. "
                "Use sampler=ddim or sampler=euler."
            )
