"""Integer products of oneDNN, as torch has them: the only module that names its private operators.

Codes of activations are uint8 with any zero point, those of weights int8. A real weight is (code - zero point) * scale
with codes from 0, and the operators know no zero points of weights (the linear one ignores them silently), so codes are
held less one half of their range, and what that leaves out is the sum of the input times a number a channel: an output
channel of ones, and a multiply-add. Legend: N batch, C channel, H W space, O output channel, G group.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

# As torch 2.14 has them, up to the arguments that are used here. A test compares them with the torch that is installed.
SIGNATURES: Mapping[str, str] = {
    "qconv_prepack": "weight w_scales x_scale x_zp stride padding dilation groups x_shape",
    "qconv2d_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias stride padding dilation groups "
    "output_scale output_zero_point output_dtype attr scalars algorithm",
    "qlinear_prepack": "weight x_shape",
    "qlinear_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias output_scale output_zero_point "
    "output_dtype post_op_name post_op_args post_op_algorithm",
}
HELD_BITS = 8  # of a code in int8
LEAST_LEVELS = 64  # of weights that no instruction set saturates on: 2 * 64 * 255 fits 16 bits


def missing() -> str:
    """Why this torch cannot multiply integers; "" where it can."""
    for name, names in SIGNATURES.items():
        try:
            schema = getattr(torch.ops.onednn, name).default._schema
        except (AttributeError, RuntimeError):
            return f"this torch ({torch.__version__}) has no operator onednn::{name}"
        if (found := " ".join(argument.name for argument in schema.arguments)) != names:
            return f"onednn::{name} of this torch ({torch.__version__}) takes ({found}), and not ({names})"
    return ""


@cache
def weight_bits() -> int:
    """How many bits of a weight are multiplied exactly here: 8, 7 where two products saturate 16 bits, or 0.

    Found by a product of the largest codes against exact integers, once a process; no flag of a processor says it.
    """
    if missing():
        return 0
    for bits in (HELD_BITS, HELD_BITS - 1):
        half = 2 ** (bits - 1)
        codes = torch.tensor([2**bits - 1, 0], dtype=torch.int32).repeat_interleave(64).view(2, 64).repeat(8, 1)
        weight = Product(codes, torch.full((16,), half), bits, None, exact_bits=bits)
        x = torch.full((4, 64), 255, dtype=torch.uint8)
        exact = (codes.double() - half).sum(1).mul(255).float().expand(4, 16)
        if torch.equal(weight(x, 1.0, 0, torch.ones(16), None), exact):
            return bits
    return 0


class Product:
    """The weight of a Conv2d or Linear in int8, packed once for every size of its input.

    codes: integers from 0 [O, ...]. zero_point: int [O]. bits: of the codes. options: stride, padding, dilation,
    groups of a convolution, None for a linear layer. exact_bits: of weights that are multiplied exactly.
    """

    def __init__(
        self, codes: Tensor, zero_point: Tensor, bits: int, options: Mapping[str, Any] | None, *, exact_bits: int
    ) -> None:
        centred = codes.int() - zero_point.int().view(-1, *[1] * (codes.ndim - 1))
        least, most = (-LEAST_LEVELS, LEAST_LEVELS) if exact_bits < HELD_BITS else (-128, 127)
        self.shift_O: Tensor | None = None
        self._options = options
        self._groups = options["groups"] if options else 1
        if centred.min() < least or centred.max() > most:
            half = 2 ** (bits - 1)
            centred = codes.int() - half
            self.shift_O = (half - zero_point.int()).float()
            ones = torch.ones_like(centred[: self._groups])
            parts = [part for g in range(self._groups) for part in (centred.chunk(self._groups)[g], ones[g : g + 1])]
            centred = torch.cat(parts)
        self._weight = centred.to(torch.int8).contiguous()
        self._outputs = len(self._weight)
        self._packed: dict[tuple[int, ...], Tensor] = {}
        self._no_zero_points = torch.zeros(self._outputs, dtype=torch.int64)

    @property
    def num_bytes(self) -> int:
        """Of the codes as they are multiplied, once."""
        return self._weight.numel()

    def __call__(self, x: Tensor, scale: float, zero_point: int, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
        """float32 [N, O, H, W] or [..., O]. x: uint8 codes. scale, zero_point: of x. scale_O: of the weight."""
        shift_O = self.shift_O
        if shift_O is None:
            return self._run(x, scale, zero_point, scale_O, bias_O)
        groups, size = self._groups, len(scale_O) // self._groups
        wide = torch.cat([scale_O.view(groups, size), scale_O.new_ones(groups, 1)], dim=1).flatten()
        bias = None if bias_O is None else torch.cat(
            [bias_O.view(groups, size), bias_O.new_zeros(groups, 1)], dim=1
        ).flatten()  # fmt: skip
        out = self._run(x, scale, zero_point, wide, bias)
        factor = (shift_O * scale_O).view(groups, size)
        if self._options is None:
            return torch.addcmul(out[..., :-1], out[..., -1:], factor[0])
        grouped = out.view(len(out), groups, size + 1, *out.shape[2:])
        put = torch.addcmul(grouped[:, :, :-1], grouped[:, :, -1:], factor[:, :, None, None])
        return put.flatten(1, 2)

    def _run(self, x: Tensor, scale: float, zero_point: int, scale_O: Tensor, bias_O: Tensor | None) -> Tensor:
        weight = self._pack(x)
        result: Tensor
        if self._options is None:
            result = torch.ops.onednn.qlinear_pointwise(
                x, scale, zero_point, weight, scale_O, self._no_zero_points, bias_O, 1.0, 0, torch.float32,
                "none", [], "",
            )  # fmt: skip
        else:
            result = torch.ops.onednn.qconv2d_pointwise(
                x, scale, zero_point, weight, scale_O, self._no_zero_points, bias_O, *self._geometry(), 1.0, 0,
                torch.float32, "none", [], "",
            )  # fmt: skip
        return result

    def _geometry(self) -> list[Any]:
        assert self._options is not None
        names = ("stride", "padding", "dilation")
        return [*(list(self._options[name]) for name in names), self._groups]

    def _pack(self, x: Tensor) -> Tensor:
        """The blocked weight for images of this size; without the size the operators take a path ten times slower."""
        size = tuple(x.shape[2:]) if self._options is not None else ()
        if size not in self._packed:
            if self._options is None:
                packed = torch.ops.onednn.qlinear_prepack(self._weight, None)
            else:
                ones = torch.ones(self._outputs)
                packed = torch.ops.onednn.qconv_prepack(self._weight, ones, 1.0, 0, *self._geometry(), list(x.shape))
            self._packed[size] = packed
        return self._packed[size]
