"""How well a gain and offset per channel fit, from moments alone; pure float64 arithmetic.

Legend of shape suffixes: T call, C channel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.moments import PairMoments

# Centred sums below this share of the raw ones are rounding: float64 keeps 16 digits and long sums lose a few.
NOISE_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class CentredMoments:
    """Means and sums about the means, float64 [T, C] each; sums are not below zero where theory says so."""

    source_mean_TC: Tensor
    target_mean_TC: Tensor
    source_TC: Tensor  # sum of (x - mean)^2
    target_TC: Tensor  # sum of (y - mean)^2
    cross_TC: Tensor  # sum of (x - mean)(y - mean)


def centred(moments: PairMoments) -> CentredMoments:
    """Move the sums of `moments` to the means."""
    n = moments.count
    x, y = moments.source_TC / n, moments.target_TC / n
    return CentredMoments(
        source_mean_TC=x,
        target_mean_TC=y,
        source_TC=(moments.source_square_TC - n * x.square()).clamp(min=0.0),
        target_TC=(moments.target_square_TC - n * y.square()).clamp(min=0.0),
        cross_TC=moments.cross_TC - n * x * y,
    )


def residual_sum_of_squares(moments: PairMoments, gain_TC: Tensor, offset_TC: Tensor) -> Tensor:
    """float64 [T, C]: sum over samples and space of (target - gain * source - offset)^2."""
    about = centred(moments)
    mean_error_TC = about.target_mean_TC - gain_TC * about.source_mean_TC - offset_TC
    spread_TC = about.target_TC - 2 * gain_TC * about.cross_TC + gain_TC.square() * about.source_TC
    return moments.count * mean_error_TC.square() + spread_TC.clamp(min=0.0)


def r_squared(moments: PairMoments, gain_TC: Tensor, offset_TC: Tensor) -> Tensor:
    """float64 [T, C]: the share of the target's variance that gain * source + offset explains.

    Between 0 and 1 for a least-squares fit, below 0 for one worse than the target's mean. Where the target is
    constant there is nothing to explain: 1 if the fit meets it, else 0.
    """
    about = centred(moments)
    residual_TC = residual_sum_of_squares(moments, gain_TC, offset_TC)
    noise_TC = NOISE_FLOOR * moments.target_square_TC
    varies_TC = about.target_TC > noise_TC
    constant_TC = (residual_TC <= noise_TC).double()
    return torch.where(varies_TC, 1 - residual_TC / torch.where(varies_TC, about.target_TC, 1.0), constant_TC)
