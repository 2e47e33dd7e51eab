"""Channel affine: the least-squares gain and offset of every channel, the correction of CacheQuant's DEC."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from cq.core.moments import PairMoments
from cq.correct.fit import NOISE_FLOOR, centred


@dataclass(frozen=True, kw_only=True)
class ChannelAffineFit:
    """target ~= gain * source + offset, per call and channel: decoupled error correction (arXiv:2503.01323).

    Deviations from the release: one estimator (1/n) for covariance and variance, a guard for channels without
    variance, and outputs are fitted without the layer's bias, which is added once, after the correction.

    min_variance: where Var(source) <= min_variance * mean((source - mean(target))^2) the channel counts as constant:
    gain 1, and the mean difference as offset. So it does where its variance is rounding (`NOISE_FLOOR`). An offset that
    source and target share, however large, is no reason.
    """

    corrects: ClassVar[bool] = True
    min_variance: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_variance < inf:
            raise ValueError(
                f"correct.min_variance={self.min_variance}: a share of the mean square, finite and not negative. "
                "1e-10 guards channels whose spread is under 1e-5 of their way to the target."
            )

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and offset, float64 [T, C]. The mean error over the fitted data is zero in every row and channel.

        bias_C is not needed: the moments leave the bias out and so does the place where the result is applied.
        """
        about = centred(moments)
        way_TC = about.source_TC + moments.count * (about.source_mean_TC - about.target_mean_TC).square()
        live_TC = about.source_TC > torch.maximum(self.min_variance * way_TC, NOISE_FLOOR * moments.source_square_TC)
        gain_TC = torch.where(live_TC, about.cross_TC / torch.where(live_TC, about.source_TC, 1.0), 1.0)
        return gain_TC, about.target_mean_TC - gain_TC * about.source_mean_TC
