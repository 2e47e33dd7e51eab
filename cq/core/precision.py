"""Number types: the one in which maps are compared, corrected and added, and the one in which products are made."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it has 16 bits; else x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def multiply(precision: str) -> None:
    """Make this process's float32 products on GPUs in float32 (highest), or in TensorFloat-32 (tf32).

    Matrix products and convolutions alike, which torch leaves at two defaults. CPUs are not concerned.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
