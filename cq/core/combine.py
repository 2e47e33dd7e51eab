"""A weighted sum of the maps of past refreshes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def combine(weights: Sequence[float], maps: Sequence[Tensor]) -> Tensor:
    """sum of weight * map; a single map of weight 1 comes back as it is, bit for bit."""
    if list(weights) == [1.0]:
        return maps[0]
    dtype = maps[0].dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype  # a forecast is a difference of maps
    total = weights[0] * maps[0].to(wide)
    for weight, held in zip(weights[1:], maps[1 : len(weights)], strict=True):
        total = total + weight * held.to(wide)
    return total.to(dtype)
