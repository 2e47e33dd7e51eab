"""How to train in bfloat16 on a CPU that has instructions for it, without losing to its slow operators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def mixed_precision(bf16: bool) -> Iterator[None]:
    """With `bf16`, autocast to bfloat16, and attention as two matrix products; else nothing.

    The fused attention is the faster one in float32, but slow backwards in bfloat16.
    """
    if not bf16:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


def with_float32_norms(model: nn.Module) -> nn.Module:
    """`model` itself, whose group norms take float32 whatever autocast makes of their input.

    In bfloat16 and channels-last a group norm costs several times what it costs in float32; left alone it eats up what
    the convolutions gain.
    """
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_to_float32)
    return model


def _to_float32(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].float(), *args[1:])
