"""Release: the correction as CacheQuant's public code computes it, its two defects included, for comparison."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cq.core.moments import PairMoments
from cq.correct.fit import centred


@dataclass(frozen=True, kw_only=True)
class ReleaseAffine:
    """As `ChannelAffineFit`, but with the release's slope and its fit of outputs that contain the layer's bias.

    The slope is Cov(1/n) / Var(1/(n-1)), so (n-1)/n of least squares. The offset of an output correction contains
    (1 - gain) * bias, although the corrected half of the layer is applied without its bias: every corrected output is
    off by that much. Deviation: where the release divides by zero (constant channel, single element) the gain is 1.
    """

    corrects: ClassVar[bool] = True

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and offset, float64 [T, C]. bias_C: float [C], put back into source and target; None for maps."""
        about = centred(moments)
        live_TC = (about.source_TC > 0) & (moments.count > 1)
        shrink = (moments.count - 1) / moments.count
        gain_TC = torch.where(live_TC, shrink * about.cross_TC / torch.where(live_TC, about.source_TC, 1.0), 1.0)
        bias = torch.zeros((), dtype=torch.float64) if bias_C is None else bias_C.to(gain_TC)
        return gain_TC, (about.target_mean_TC + bias) - gain_TC * (about.source_mean_TC + bias)
