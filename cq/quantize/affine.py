"""Uniform affine quantization: integer codes q in 0..2^b-1, real value (q - zero_point) * scale. Pure functions.

One function chooses the parameters, for the search and for deployment alike; the range always contains zero, so
the zero point is an integer inside the code range (a kernel can execute what is simulated here).
Arithmetic is float32. Legend: R rows (one a tensor or one an output channel).
"""

import torch
from torch import Tensor

MIN_BITS, MAX_BITS = 2, 16
_SMALLEST_SCALE = 1e-12  # a constant-zero tensor gets this scale instead of a division by zero


def choose_qparams(low_R: Tensor, high_R: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """scale float32 [R] and zero_point int32 [R] whose grid covers [min(low, 0), max(high, 0)]."""
    low = low_R.double().clamp(max=0)
    high = high_R.double().clamp(min=0)
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp(min=_SMALLEST_SCALE).float()
    zero_point = (-low / scale.double()).round().clamp(0, levels).to(torch.int32)
    return scale, zero_point


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Codes int32 of the shape of x; scale and zero_point broadcast against x. Halves round to even.

    The scale's reciprocal is multiplied, as PyTorch's fused operators do: the one definition of the nearest level.
    """
    codes = (x.float() * (1.0 / scale)).round() + zero_point
    return codes.clamp(0, 2**bits - 1).to(torch.int32)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real values of codes; float32."""
    return (codes - zero_point).float() * scale


def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """`dequantize(quantize(x))` bit for bit, for scales that broadcast; one new tensor, no integers on the way."""
    shift = zero_point.float()
    codes = (x.float() * (1.0 / scale)).round_().add_(shift).clamp_(0, 2**bits - 1)
    return codes.sub_(shift).mul_(scale)


def over_weight(values: Tensor, weight: Tensor) -> Tensor:
    """What belongs to output channels, as it broadcasts against a weight [O, I, ...].

    values: [O], or [O, G] for G groups of ceil(I / G) input channels that follow each other; the last may be smaller.
    """
    if values.ndim == 1:
        return values.view(-1, *(1,) * (weight.ndim - 1))
    inputs = weight.shape[1]
    by_input = values.repeat_interleave(-(-inputs // values.shape[1]), dim=1)[:, :inputs]
    return by_input.view(*weight.shape[:2], *(1,) * (weight.ndim - 2))


def fake_quantize(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    """`dequantize(quantize(x))` bit for bit, for one scale.

    Four passes in place: shifting the clamp instead of the codes is exact, and each pass is a vector loop, which
    PyTorch's own fused fake quantization is not on CPUs (it was measured 20 times slower).
    """
    reciprocal = float(1.0 / torch.tensor(scale, dtype=torch.float32))
    return x.mul(reciprocal).round_().clamp_(-zero_point, 2**bits - 1 - zero_point).mul_(scale)
