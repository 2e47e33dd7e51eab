"""DDIM: one call a step, eta 0 (arXiv:2010.02502, eq. 12 with sigma 0)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cq.sampler.stock import StockSolver


@dataclass(frozen=True, kw_only=True)
class DDIM(StockSolver):
    """diffusers' DDIMScheduler."""

    scheduler = "DDIMScheduler"
    equal_steps = True
    lacks: ClassVar[Mapping[str, Any]] = {"final_sigmas_type": "zero"}
