"""What stands in for weights and quantizers of layers while their rounding is learned.

A batch holds rows of different calls, so each row is quantized with its own call's scale. Legend: R rows, T call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cq.quantize.affine import over_weight
from cq.quantize.rounding import alpha_for, hard_codes, indecision, lower_codes, soft_codes

LearnedScales = Literal["none", "shared", "per_call"]


class RowCalls:
    """The call of each row that is running; set for a block of code and taken away again."""

    def __init__(self) -> None:
        self._calls_R: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """int64 [R]; RuntimeError where no rows are running."""
        if self._calls_R is None:
            raise RuntimeError("no rows are running: name their calls first.")
        return self._calls_R

    @contextmanager
    def at(self, calls_R: Tensor) -> Iterator[None]:
        previous, self._calls_R = self._calls_R, calls_R
        try:
            yield
        finally:
            self._calls_R = previous


class SoftWeight(nn.Module):
    """Stands in for a QuantWeight: alpha sets it between two levels of the grid, at first to the float weight."""

    scale: Tensor
    zero_point: Tensor
    lower: Tensor

    def __init__(self, weight: Tensor, bits: int, *, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", over_weight(scale, weight))
        self.register_buffer("zero_point", over_weight(zero_point, weight))
        lower, fraction = lower_codes(weight.detach(), self.scale, self.zero_point)
        self.register_buffer("lower", lower)
        self.alpha = nn.Parameter(alpha_for(fraction))

    @property
    def value(self) -> Tensor:
        """The soft weight; differentiable in alpha."""
        return (soft_codes(self.lower, self.alpha, self.bits) - self.zero_point) * self.scale

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The integers that it ends at."""
        return hard_codes(self.lower, self.alpha, self.bits)

    def indecision(self, beta: float) -> Tensor:
        return indecision(self.alpha, beta)


class RowQuantizer(nn.Module):
    """Stands in for an ActQuantizer of fixed parameters: rows of different calls in one batch, and gradients.

    scale float32 and zero_point int32, [T] or [1]. learned: the logarithm of every call's scale is trained, or one
    factor for all of them, or nothing; zero points stay as they are, integers on the grid.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, *, scale: Tensor, zero_point: Tensor, calls: RowCalls) -> None:
        super().__init__()
        self.bits = bits
        self._calls = calls
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.float())
        self.log_factor: nn.Parameter | None = None

    def learn(self, learned: LearnedScales) -> None:
        """Make the scales trainable, from where they are."""
        if learned != "none":
            length = len(self.scale) if learned == "per_call" else 1
            self.log_factor = nn.Parameter(torch.zeros(length, device=self.scale.device))

    def settle(self, scale: Tensor) -> None:
        """End of training: fixed scales."""
        self.log_factor = None
        self.scale.copy_(scale)

    def scales(self) -> Tensor:
        """float32 [T] or [1], as they are now."""
        return self.scale if self.log_factor is None else self.scale * self.log_factor.exp()

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 1)
        scale, zero_point = self.scales(), self.zero_point
        if len(scale) > 1:
            scale, zero_point = scale[self._calls.value], zero_point[self._calls.value]
        scale, zero_point = scale.view(shape), zero_point.view(shape)
        if torch.is_grad_enabled():
            quantized: Tensor = _StraightThrough.apply(x, scale, zero_point, 2**self.bits - 1)
            return quantized
        levels = 2**self.bits - 1
        return x.mul(1.0 / scale).round_().clamp_(-zero_point, levels - zero_point).mul_(scale)


class _StraightThrough(torch.autograd.Function):
    """`affine.fake_quantize` bit for bit; rounding passes gradients on, clamping stops them.

    The scale's gradient is LSQ's (arXiv:1902.08153, eq. 3): the rounding error inside the range, the limit outside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
        steps = x.mul(1.0 / scale)
        rounded = steps.round()
        kept = rounded.clamp(-zero_point, levels - zero_point)
        inside = kept == rounded
        per_scale = torch.where(inside, kept - steps, kept) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(inside, per_scale)
        ctx.scale_shape = scale.shape
        return kept.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inside, per_scale = ctx.saved_tensors
        of_scale = None
        if per_scale is not None:
            of_scale = (grad * per_scale).sum_to_size(ctx.scale_shape)
        return (grad * inside if ctx.needs_input_grad[0] else None), of_scale, None, None
