"""Offset only: the mean of every channel is set right, its spread left alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cq.core.moments import PairMoments


@dataclass(frozen=True, kw_only=True)
class OffsetOnly:
    """Gain 1 and the mean difference as offset: the ablation of `ChannelAffineFit` that has no gain."""

    corrects: ClassVar[bool] = True

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and offset, float64 [T, C]. bias_C is not needed: it is on both sides of the difference."""
        offset_TC = (moments.target_TC - moments.source_TC) / moments.count
        return torch.ones_like(offset_TC), offset_TC
