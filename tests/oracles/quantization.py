"""Quantization the slow way: every level tried, every candidate tried, every value put into its bin by hand."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from cq.quantize.affine import choose_qparams, dequantize, quantize


def distance_to_nearest_level(x_N: Tensor, *, scale: float, zero_point: int, bits: int) -> Tensor:
    """float64 [N]: how far each value is from the closest of all 2^bits levels."""
    levels = (torch.arange(2**bits, dtype=torch.float64) - zero_point) * scale
    return (x_N.double()[:, None] - levels).abs().amin(1)


def search_errors(
    values_M: Tensor, counts_M: Tensor, *, factors: Sequence[float], bits: int, power: float
) -> list[float]:  # fmt: skip
    """The summed error of every shrink factor of the range of `values_M`, one after the other."""
    return [
        range_error(values_M, counts_M, low=values_M.min() * f, high=values_M.max() * f, bits=bits, power=power)
        for f in factors
    ]


def range_error(
    values_M: Tensor, counts_M: Tensor, *, low: Tensor, high: Tensor, bits: int, power: float
) -> float:  # fmt: skip
    """Sum of count * |x - Q(x)|^power on the grid that covers low..high, through the integer codes."""
    scale, zero_point = choose_qparams(low, high, bits)
    rounded = dequantize(quantize(values_M, scale, zero_point, bits), scale, zero_point)
    return float(((rounded - values_M).abs() ** power * counts_M).sum())


def histogram_of(values_N: Tensor, *, bound: float, bins: int) -> list[int]:
    """Counts on [-bound, bound) in Python's own floating point, where bin edges are exact."""
    counts = [0] * bins
    for value in cast(list[float], values_N.double().tolist()):
        counts[math.floor(value / (2 * bound / bins)) + bins // 2] += 1
    return counts
