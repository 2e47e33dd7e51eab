"""A weighted sum of the maps of past refreshes."""

from collections.abc import Sequence

from torch import Tensor

from cq.core.precision import at_least_float32


def combine(weights: Sequence[float], maps: Sequence[Tensor]) -> Tensor:
    """sum of weight * map; a single map of weight 1 comes back as it is, bit for bit."""
    if list(weights) == [1.0]:
        return maps[0]
    total = weights[0] * at_least_float32(maps[0])  # a forecast is a difference of maps
    for weight, held in zip(weights[1:], maps[1 : len(weights)], strict=True):
        total = total + weight * at_least_float32(held)
    return total.to(maps[0].dtype)
