"""A correction that trusts the calibration only in part."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cq.core.moments import PairMoments


@dataclass(frozen=True, kw_only=True)
class PartOfOffset:
    """Moves the mean of every channel a `share` of the way; gain 1."""

    corrects: ClassVar[bool] = True

    share: float

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and offset, float64 [T, C]."""
        offset_TC = self.share * (moments.target_TC - moments.source_TC) / moments.count
        return offset_TC.new_ones(offset_TC.shape), offset_TC
