"""No correction: the stale or quantized value stands as it is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cq.core.moments import PairMoments


@dataclass(frozen=True, kw_only=True)
class NoCorrection:
    """The identity among correctors."""

    corrects: ClassVar[bool] = False

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain 1 and offset 0, whatever the moments."""
        return torch.ones_like(moments.target_TC), torch.zeros_like(moments.target_TC)
