"""Integer products of oneDNN, as torch has them: the only module that names its private operators.

Codes of activations are uint8 with any zero point, those of weights int8. A real weight is (code - zero point) * scale
with codes from 0, and the operators know no zero points of weights (the linear one ignores them silently), so codes are
held less one half of their range, and what that leaves out is the sum of the input times a number a channel: an output
channel of ones, and a multiply-add. Legend: N batch, C channel, H W space, O output channel, G group.
"""

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu as gelu_of
from torch.nn.functional import pad

from cq.core.heap import LARGE, give_back
from cq.quantize.affine import quantize

# As torch 2.14 has them, up to the arguments that are used here. A test compares them with the torch that is installed.
SIGNATURES: Mapping[str, str] = {
    "qconv_prepack": "weight w_scales x_scale x_zp stride padding dilation groups x_shape",
    "qconv2d_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias stride padding dilation groups "
    "output_scale output_zero_point output_dtype attr scalars algorithm",
    "qconv2d_pointwise.binary": "qx x_scale x_zero_point qw w_scale w_zero_point qaccum bias stride padding dilation "
    "groups output_scale output_zero_point output_dtype accum_scale accum_zero_point binary_attr alpha unary_attr "
    "unary_scalars unary_algorithm",
    "qlinear_prepack": "weight x_shape",
    "qlinear_pointwise": "qx x_scale x_zero_point qw w_scale w_zero_point bias output_scale output_zero_point "
    "output_dtype post_op_name post_op_args post_op_algorithm",
    "qlinear_pointwise.binary": "qx x_scale x_zero_point qw w_scale w_zero_point other bias output_scale "
    "output_zero_point output_dtype other_scale other_zp binary_post_op binary_alpha unary_post_op unary_post_op_args "
    "unary_post_op_algorithm",
}
HELD_BITS = 8  # of a code in int8
_ROUNDS = 1.5 * 2**23  # a float32 whose last place is 1
FEW_PLACES = 1024  # of all images; a convolution to no more of them is no faster than a product of its windows
LEAST_LEVELS = 64  # of weights that no instruction set saturates on: 2 * 64 * 255 fits 16 bits


def missing() -> str:
    """Why this torch cannot multiply integers; "" where it can."""
    if not torch._C._has_mkldnn:
        return f"this torch ({torch.__version__}) was built without oneDNN"
    for name, names in SIGNATURES.items():
        try:
            operator, _, overload = name.partition(".")
            schema = getattr(getattr(torch.ops.onednn, operator), overload or "default")._schema
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
    A convolution of single pixels is a linear layer of them, which is up to twice as fast; one to few pixels is a
    linear layer of their windows, which is up to 1.7 times as fast.
    """

    def __init__(
        self, codes: Tensor, zero_point: Tensor, bits: int, options: Mapping[str, Any] | None, *, exact_bits: int
    ) -> None:
        self._of_pixels = options is not None and _single_pixels(codes, options)
        self._options = None if self._of_pixels else options
        self._groups = self._options["groups"] if self._options else 1
        codes = codes.flatten(1) if self._of_pixels else codes
        self._window = tuple(codes.shape[2:])
        centred = codes.int() - zero_point.int().view(-1, *[1] * (codes.ndim - 1))
        least, most = (-LEAST_LEVELS, LEAST_LEVELS) if exact_bits < HELD_BITS else (-128, 127)
        self.shift_O: Tensor | None = None
        self.sum_O: Tensor | None = None  # of the weights in steps, where rows have zero points of their own
        if centred.min() < least or centred.max() > most:
            half = 2 ** (bits - 1)
            centred = codes.int() - half
            self.shift_O = (half - zero_point.int()).float()
            ones = torch.ones_like(centred[: self._groups])
            parts = [part for g in range(self._groups) for part in (centred.chunk(self._groups)[g], ones[g : g + 1])]
            centred = torch.cat(parts)
        self._outputs = len(centred)
        self._no_zero_points = torch.zeros(self._outputs, dtype=torch.int64)
        self._unpacked: Tensor | None = centred.to(torch.int8).contiguous()
        self._packed: dict[tuple[int, ...], Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Of the codes that are held: once for each size of an input that it was packed for."""
        held = [*self._packed.values(), *([] if self._unpacked is None else [self._unpacked])]
        return sum(weight.numel() for weight in held)

    def __call__(
        self, x: Tensor, scale: float, zero_point: int, scale_O: Tensor, bias_O: Tensor | None,
        onto: Tensor | None = None, gelu: str = "",
    ) -> Tensor:  # fmt: skip
        """float32 [N, O, H, W] or [..., O]. x: uint8 codes. scale, zero_point: of x. scale_O: of the weight.

        onto: what it is added to, and which is overwritten. gelu: of the output, of a linear layer: none or tanh.
        """
        if self._options is not None and any(self._options["padding"]):
            # The operator's own padding sums the whole weight at every call where the zero point is not 0.
            height, width = self._options["padding"]
            x = pad(x, (width, width, height, height), value=zero_point)
        if self._options is None and not self._of_pixels:
            return self._add(x, scale, zero_point, scale_O, bias_O, onto, True, gelu)
        places_NHWK = x.permute(0, 2, 3, 1) if self._of_pixels else self._windows(x)
        if places_NHWK is None:
            return self._add(x, scale, zero_point, scale_O, bias_O, onto, False)
        onto = None if onto is None else onto.permute(0, 2, 3, 1)
        return self._add(places_NHWK, scale, zero_point, scale_O, bias_O, onto, True).permute(0, 3, 1, 2)

    def _windows(self, x: Tensor) -> Tensor | None:
        """What each place of the output sees, its channels side by side: [N, H, W, K]. None where that does not pay."""
        assert self._options is not None
        windows = x.permute(0, 2, 3, 1)
        for axis, size, stride, dilation in zip(
            (1, 2), self._window, self._options["stride"], self._options["dilation"], strict=True
        ):
            windows = windows.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        few = self._groups == 1 and prod(windows.shape[:3]) <= FEW_PLACES
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3) if few else None

    def of_rows(
        self, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, scale_O: Tensor, bias_O: Tensor | None,
        gelu: str = "",
    ) -> Tensor:  # fmt: skip
        """As calling a linear layer, with float32 x [..., C] and a grid [..., 1] for every row of it.

        The operators take one zero point: half the number of codes, and what a row's own differs by from it is a
        multiple of the sum of the weights, added after.
        """
        half = 2 ** (bits - 1)
        codes = quantize(x, scale, zero_point, bits).to(torch.uint8)
        if self.sum_O is None:
            ones = torch.ones(1, codes.shape[-1], dtype=torch.uint8)
            self.sum_O = self._add(ones, 1.0, 0, torch.ones_like(scale_O), None, None, True)
        out = self._add(codes, 1.0, half, torch.ones_like(scale_O), None, None, True)
        out = torch.addcmul(out, (half - zero_point).float(), self.sum_O).mul_(scale).mul_(scale_O)
        out = out if bias_O is None else out.add_(bias_O)
        return gelu_of(out, approximate=gelu) if gelu else out

    def _add(
        self, x: Tensor, scale: float, zero_point: int, scale_O: Tensor, bias_O: Tensor | None, onto: Tensor | None,
        rows: bool, gelu: str = "",
    ) -> Tensor:  # fmt: skip
        if self.shift_O is None:
            return self._run(x, scale, zero_point, scale_O, bias_O, onto, rows, gelu)
        groups, size = self._groups, len(scale_O) // self._groups
        wide = torch.cat([scale_O.view(groups, size), scale_O.new_ones(groups, 1)], dim=1).flatten()
        bias = None if bias_O is None else torch.cat(
            [bias_O.view(groups, size), bias_O.new_zeros(groups, 1)], dim=1
        ).flatten()  # fmt: skip
        out = self._run(x, scale, zero_point, wide, bias, None, rows)
        factor = (self.shift_O * scale_O).view(groups, size)
        if rows:
            put = torch.addcmul(out[..., :-1], out[..., -1:], factor[0])
        else:
            grouped = out.view(len(out), groups, size + 1, *out.shape[2:])
            put = torch.addcmul(grouped[:, :, :-1], grouped[:, :, -1:], factor[:, :, None, None]).flatten(1, 2)
        put = gelu_of(put, approximate=gelu) if gelu else put
        return put if onto is None else onto.add_(put)

    def _run(
        self, x: Tensor, scale: float, zero_point: int, scale_O: Tensor, bias_O: Tensor | None, onto: Tensor | None,
        rows: bool, gelu: str = "",
    ) -> Tensor:  # fmt: skip
        ops, weight, float32 = torch.ops.onednn, self._pack(x, rows), torch.float32
        added: tuple[Any, ...] = (1.0, 0, "sum", 1.0, "none", [], "")
        given = (x, scale, zero_point, weight, scale_O, self._no_zero_points)
        result: Tensor
        if rows and onto is None:
            name = "gelu" if gelu else "none"
            result = ops.qlinear_pointwise(*given, bias_O, 1.0, 0, float32, name, [], gelu)
        elif rows:
            result = ops.qlinear_pointwise.binary(*given, onto, bias_O, 1.0, 0, float32, *added)
        elif onto is None:
            result = ops.qconv2d_pointwise(*given, bias_O, *self._geometry(), 1.0, 0, float32, "none", [], "")
        else:
            result = ops.qconv2d_pointwise.binary(*given, onto, bias_O, *self._geometry(), 1.0, 0, float32, *added)
        return result

    def _geometry(self) -> list[Any]:
        assert self._options is not None
        stride, dilation = (list(self._options[name]) for name in ("stride", "dilation"))
        return [stride, [0, 0], dilation, self._groups]

    def _pack(self, x: Tensor, rows: bool) -> Tensor:
        """The blocked weight for images of this size; without the size the operators take a path ten times slower.

        rows: x is of places side by side, whose size does not matter.
        """
        size = () if rows else tuple(x.shape[2:])
        if size not in self._packed:
            codes = self._codes()
            if rows:
                flat = codes.movedim(1, -1).flatten(1) if self._window else codes
                packed = torch.ops.onednn.qlinear_prepack(flat.contiguous(), None)
            else:
                ones = torch.ones(self._outputs)
                packed = torch.ops.onednn.qconv_prepack(codes, ones, 1.0, 0, *self._geometry(), list(x.shape))
            self._packed[size] = packed
            self._unpacked = None
            if codes.numel() >= LARGE:
                del codes
                give_back()
        return self._packed[size]

    def _codes(self) -> Tensor:
        """[O, C, ...] int8, back from what is packed where they are no longer held."""
        if self._unpacked is not None:
            return self._unpacked
        size, packed = next(iter(self._packed.items()))
        dense: Tensor = packed.to_dense()
        if not size:  # [K, O] of the windows
            channels = len(dense) // prod(self._window)
            dense = dense.t().reshape(-1, *self._window, channels).movedim(-1, 1).contiguous()
        return dense


def _single_pixels(codes: Tensor, options: Mapping[str, Any]) -> bool:
    alone = tuple(codes.shape[2:]) == tuple(options["stride"]) == (1, 1)
    return alone and options["groups"] == 1 and not any(options["padding"])


def to_codes(x: Tensor, scale: float, zero_point: int, bits: int, layout: torch.memory_format) -> Tensor:
    """uint8 codes of x, as `cq.quantize.affine.quantize` has them, bit for bit, and dense in that layout.

    Adding `_ROUNDS` leaves no place behind the point, so the sum is rounded to the nearest integer, halves to even,
    and its lowest byte is the code less the zero point: adding that wraps around as it should. Every pass is a vector
    loop; from float to uint8 torch has none, which cost more than all of them.
    """
    x = x.float().contiguous(memory_format=layout)
    reciprocal = float(1.0 / torch.tensor(scale, dtype=torch.float32))
    rounded = x.mul(reciprocal).add_(_ROUNDS).clamp_(_ROUNDS - zero_point, _ROUNDS + 2**bits - 1 - zero_point)
    return rounded.view(torch.int32).to(torch.uint8).add_(zero_point)
