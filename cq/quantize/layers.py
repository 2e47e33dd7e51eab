"""Fake-quantized layers. Activation parameters are tables by call; corrections of the cached half fold into them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from cq.core.call import CallIndex
from cq.quantize.affine import choose_qparams, dequantize, fake_quantize, over_weight, round_to_grid
from cq.quantize.observers import Histogram, Observer, Support


class ActQuantizer(nn.Module):
    """Per-tensor activation quantizer: one (scale, zero point) for all calls, or one a call.

    While `observing`, it passes values on and gathers a histogram; `close` turns that into parameters.
    """

    def __init__(
        self, bits: int, *, observer: Observer | None, call_index: CallIndex, num_calls: int, per_call: bool
    ) -> None:
        super().__init__()
        self.bits = bits
        self.observing = True
        self._observer = observer
        self._call_index = call_index
        self._per_call = per_call
        self._histogram: Histogram | None = None
        self._scale: list[float] = [math.nan] * (num_calls if per_call else 1)
        self._zero_point: list[int] = [0] * len(self._scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self._histogram = self._histogram or Histogram()
            self._histogram.update(x)
            return x
        return fake_quantize(x, *self.grid(self._call_index.value if self._per_call else 0), self.bits)

    def grid(self, call: int) -> tuple[float, int]:
        """Scale and zero point at a call."""
        row = call if self._per_call else 0
        return self._scale[row], self._zero_point[row]

    def close(self, call: int) -> None:
        """End of a call over all batches: in per-call mode, fix its row and start afresh."""
        if self._per_call:
            self._fix(call)
            self._histogram = None

    def finish(self) -> None:
        """End of calibration. A call at which the layer never ran keeps the row of the call before it."""
        if not self._per_call:
            self._fix(0)
        self._histogram = None
        self.observing = False

    def _fix(self, row: int) -> None:
        if self._histogram is not None:
            assert self._observer is not None, "stored parameters are not calibrated again"
            low, high = self._observer.range(self._histogram.support(), self.bits)
            scale, zero_point = choose_qparams(low, high, self.bits)
            self._scale[row], self._zero_point[row] = float(scale), int(zero_point)
        elif row > 0:
            self._scale[row], self._zero_point[row] = self._scale[row - 1], self._zero_point[row - 1]

    @classmethod
    def stored(cls, bits: int, tensors: Mapping[str, Tensor], name: str, *, call_index: CallIndex) -> "ActQuantizer":
        """The quantizer that `write` described; one row of parameters is for all calls."""
        rows = len(tensors[f"{name}/scale"])
        made = cls(bits, observer=None, call_index=call_index, num_calls=rows, per_call=rows > 1)
        made._scale = [float(v) for v in tensors[f"{name}/scale"]]
        made._zero_point = [int(v) for v in tensors[f"{name}/zero_point"]]
        made.observing = False
        return made

    def write(self, name: str) -> dict[str, Tensor]:
        return {
            f"{name}/scale": torch.tensor(self._scale, dtype=torch.float32),
            f"{name}/zero_point": torch.tensor(self._zero_point, dtype=torch.int32),
        }


class DynamicQuantizer(nn.Module):
    """Activation quantizer without parameters: every token, or every image, gets the grid that just covers it.

    What an image becomes does not depend on the others of its batch.
    """

    def __init__(self, bits: int, *, of: str) -> None:
        super().__init__()
        self.bits = bits
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            rounded = round_to_grid(x, *self.grids(x), self.bits)
        learns = torch.is_grad_enabled() and x.requires_grad  # rounding passes gradients on, where any are asked for
        return x + (rounded - x).detach() if learns else rounded

    def grids(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale float32 and zero point int32, which broadcast against x [N, ..., C], or [N, C, H, W]."""
        dims = [-1] if self.of == "token" else list(range(1, x.ndim))
        return choose_qparams(x.amin(dims, keepdim=True), x.amax(dims, keepdim=True), self.bits)


InputQuantizer = ActQuantizer | DynamicQuantizer


class GridWeight(Protocol):
    """What a layer multiplies with: `value`, and the `scale` of the grid it lies on, [C_out], or [C_out, G]."""

    @property
    def value(self) -> Tensor: ...
    @property
    def scale(self) -> Tensor: ...


class QuantWeight(nn.Module):
    """Weight (or a slice of it along its inputs) on a grid a row, or a group of a row. value: dequantized, float32.

    scale, zero_point: [C_out], or [C_out, G]; see `over_weight`.
    codes: the integers of the weight's shape, where it is not simply rounded to nearest. With them the weight may be on
    the meta device.
    """

    value: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, weight: Tensor, bits: int, *, scale: Tensor, zero_point: Tensor, codes: Tensor | None = None
    ) -> None:
        super().__init__()
        self.bits = bits
        where = scale.device if weight.is_meta else weight.device
        scale, zero_point = scale.to(where), zero_point.to(where)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        grid = (over_weight(scale, weight), over_weight(zero_point, weight))
        value = round_to_grid(weight, *grid, bits) if codes is None else dequantize(codes.to(where).int(), *grid)
        self.register_buffer("value", value)


def choose_weight_qparams(weight: Tensor, bits: int, observer: Observer, group: int = 0) -> tuple[Tensor, Tensor]:
    """scale float32 and zero_point int32, [C_out], for a weight [C_out, C_in, ...].

    group: how many input channels share them at most, or 0 for all; with it both are [C_out, G], see `over_weight`.
    """
    if group:
        count = -(-weight.shape[1] // group)
        parts = torch.split(weight, -(-weight.shape[1] // count), dim=1)
        scales, zero_points = zip(*(choose_weight_qparams(part, bits, observer) for part in parts), strict=True)
        return torch.stack(scales, 1), torch.stack(zero_points, 1)
    low, high = observer.range(Support.of_rows(weight.detach().flatten(1)), bits)
    return choose_qparams(low, high, bits)


def halves(weight: Tensor, split: int) -> list[Tensor]:
    """The weight, or its two slices along the inputs where the input is a concatenation."""
    return [weight[:, :split], weight[:, split:]] if split else [weight]


class QuantLayer(nn.Module):
    """A Conv2d or Linear with quantized weights and input; at concatenations, split into two halves.

    split: input channels of the main path, each half with quantizers of its own (Q-Diffusion's shortcut split);
    0 for layers that see no concatenation. correction: [T, 2, C_out] gain and offset (CacheQuant's DEC) of the first
    half's output, or of the whole output without a split; or None.
    """

    bias: Tensor | None
    correction: Tensor | None

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        *,
        split: int,
        weights: list[QuantWeight],
        quantizers: Sequence[InputQuantizer],
        call_index: CallIndex,
    ) -> None:
        super().__init__()
        assert len(weights) == len(quantizers) == (2 if split else 1)
        self.split = split
        self.convolution = isinstance(layer, nn.Conv2d)
        self._options: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise ValueError(f"padding_mode={layer.padding_mode!r}: quantized convolutions pad with zeros only.")
            self._options = {
                "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups,
            }  # fmt: skip
        self.weights = nn.ModuleList(weights)
        self.quantizers = nn.ModuleList(quantizers)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone().float())
        self.register_buffer("correction", None)
        self._call_index = call_index

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x.float()).to(x.dtype)  # grids need float32, whatever the network around it computes in

    def _forward(self, x: Tensor) -> Tensor:
        if self.split:
            skip = self._product(self.quantizers[1](x[:, self.split :]), self._weight(1).value, self.bias)
            return self.corrected(x[:, : self.split]) + skip
        if self.correction is None:
            return self._product(self.quantizers[0](x), self._weight(0).value, self.bias)
        out = self.corrected(x)
        return out if self.bias is None else out + self.bias.view(self._shape(out))

    def corrected(self, u: Tensor) -> Tensor:
        """The share of the output that comes from the cached map (the first half, or all of it), without bias,
        corrected where a correction is set."""
        out = self._product(self.quantizers[0](u.float()), self._weight(0).value, None)
        if self.correction is None:
            return out
        gain_C, offset_C = self.correction[self._call_index.value]
        shape = self._shape(out)
        return torch.addcmul(offset_C.view(shape), out, gain_C.view(shape))

    def folded(self, call: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What an integer kernel executes at `call`: weight scales of the cached half with the gain folded in, of the
        skip half as they are (None without one), and one bias [C_out] with the offset folded in. Codes do not
        change."""
        first = self._weight(0).scale
        second = self._weight(1).scale if self.split else None
        if self.correction is None:
            return first, second, self.bias
        gain_C, offset_C = self.correction[call]
        gained = first * gain_C.view(-1, *(1,) * (first.ndim - 1))
        return gained, second, offset_C if self.bias is None else self.bias + offset_C

    def _shape(self, out: Tensor) -> tuple[int, ...]:
        """For a vector over output channels: a convolution has them second, a linear layer last."""
        return (1, -1) + (1,) * (out.ndim - 2) if self.convolution else (1,) * (out.ndim - 1) + (-1,)

    def _weight(self, index: int) -> GridWeight:
        return cast(GridWeight, self.weights[index])

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return (
            nn.functional.conv2d(x, weight, bias, **self._options)
            if self.convolution
            else nn.functional.linear(x, weight, bias)
        )
