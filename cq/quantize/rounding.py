"""Learned rounding (AdaRound, arXiv:2004.10568): a weight goes down or up, whichever suits the layer's output better.

A weight lies `fraction` above the code below it. A variable alpha stands for the share h(alpha) in 0..1 of one step
that is added to that lower code: at the start h is the fraction, so the soft weight is the float weight; at the end
h is 0 or 1. Pure functions, float32. Legend of shapes: everything broadcasts against the weight.
"""

import torch
from torch import Tensor

STRETCH = 1.2  # the sigmoid is stretched to -0.1..1.1 and clipped: h reaches 0 and 1 at finite alpha
LOWEST = -0.1


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """h(alpha) = clip(1.2 sigmoid(alpha) - 0.1, 0, 1): AdaRound's eq. 23."""
    return alpha.sigmoid().mul(STRETCH).add(LOWEST).clamp(0, 1)


def alpha_for(fraction: Tensor) -> Tensor:
    """The alpha with h(alpha) = fraction, for fractions in 0..1."""
    return torch.logit((fraction - LOWEST) / STRETCH)


def lower_codes(weight: Tensor, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """The code at or below each weight, as float32 and not yet clamped, and the weight's fraction above it in [0, 1).

    The same product as in `affine.quantize`, so that nearest rounding is lower code plus (fraction rounded).
    """
    steps = weight.float() * (1.0 / scale)
    below = steps.floor()
    return below + zero_point, steps - below


def soft_codes(lower: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Codes between the grid's levels, float32, differentiable in alpha."""
    return (lower + rectified_sigmoid(alpha)).clamp(0, 2**bits - 1)


def hard_codes(lower: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Codes on the grid: up where alpha >= 0 (h >= 0.5), else down. uint8 up to 8 bits, else int32."""
    codes = (lower + (alpha >= 0)).clamp(0, 2**bits - 1)
    return codes.to(torch.uint8 if bits <= 8 else torch.int32)


def indecision(alpha: Tensor, beta: float) -> Tensor:
    """AdaRound's regulariser (eq. 24), the mean over weights of 1 - |2 h - 1|^beta: 0 where every h is 0 or 1.

    A large beta is flat around h = 0.5 and pulls only at what is nearly decided; beta = 2 pulls at everything.
    """
    distance = rectified_sigmoid(alpha).mul(2).sub(1).abs()
    return (1 - distance.pow(beta)).mean()


def beta_at(progress: float, beta: tuple[float, float], warm_up: float) -> float | None:
    """The regulariser's beta at `progress` in 0..1 of the iterations; None during the warm-up, when there is none.

    Falls on a straight line from the first to the second value.
    """
    if progress < warm_up:
        return None
    first, last = beta
    return first + (last - first) * (progress - warm_up) / (1 - warm_up)
