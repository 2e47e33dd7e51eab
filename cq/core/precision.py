"""The number type in which maps are compared, corrected and added."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it has 16 bits; else x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
