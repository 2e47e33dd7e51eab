"""PTQD: the quantization error of the noise prediction, split into a part correlated with it and a bias."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cq.core.moments import PairMoments
from cq.correct.fit import NOISE_FLOOR


@dataclass(frozen=True, kw_only=True)
class PTQD:
    """corrected = (quantized - bias) / (1 + k), per call; arXiv:2305.10657.

    quantized = target + error, and error = k * target + bias + rest, with one scalar slope k a call and one bias a
    channel. The rest's variance is what PTQD takes out of a stochastic sampler's noise; the samplers here are
    deterministic, so there is nothing to take it out of.
    """

    corrects: ClassVar[bool] = True

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain 1 / (1 + k) and offset -bias / (1 + k), float64 [T, C]; the gain is the same for all channels of a call.

        k: least-squares slope of the error on the target over all channels of a call, clipped to 0 from below (PTQD
        expects the error to grow with what it disturbs); 0 where the target does not vary. bias_C is not needed.
        """
        channels = moments.source_TC.shape[1]
        count_T1 = moments.count * channels

        def about_means(product_TC: Tensor, one_TC: Tensor, other_TC: Tensor) -> Tensor:
            """Sum over a call's elements of (x - mean)(y - mean), [T, 1]."""
            means_T1 = one_TC.sum(1, keepdim=True) * other_TC.sum(1, keepdim=True) / count_T1
            return product_TC.sum(1, keepdim=True) - means_T1

        variance_T1 = about_means(moments.target_square_TC, moments.target_TC, moments.target_TC)
        covariance_T1 = about_means(moments.cross_TC, moments.source_TC, moments.target_TC)
        varies_T1 = variance_T1 > NOISE_FLOOR * moments.target_square_TC.sum(1, keepdim=True)
        slope_T1 = torch.where(varies_T1, covariance_T1 / torch.where(varies_T1, variance_T1, 1.0) - 1, 0.0)
        gain_TC = (1 / (1 + slope_T1.clamp(min=0.0))).expand(-1, channels)
        offset_TC = (moments.target_TC - gain_TC * moments.source_TC) / moments.count
        return gain_TC, offset_TC
