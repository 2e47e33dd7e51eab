"""A quantized layer that multiplies integers: the parameters of its simulation, with all corrections folded in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.artifacts import QuantParams
from cq.engine.kernels import HELD_BITS, Product, to_codes
from cq.quantize.affine import over_weight, quantize
from cq.quantize.layers import ActQuantizer
from cq.quantize.twin import StoredLayer

SMALLEST = 2**12  # weights of a layer: below, what an operator costs in itself is more than its product


class IntegerLayer(nn.Module):
    """Quantizes its input to codes, multiplies these, and returns the input's number type, as `QuantLayer` does.

    The gain of a correction goes into the scales of the cached half's weight and the offset into the bias, call by
    call; codes and packed weights are the same at all calls.
    """

    def __init__(self, stored: StoredLayer, *, exact_bits: int) -> None:
        super().__init__()
        module, self.split = stored.module, stored.row["split"]
        self._call_index = stored.call_index
        self._quantizers = stored.quantizers
        self._convolution = isinstance(module, nn.Conv2d)
        options: dict[str, Any] | None = None
        if isinstance(module, nn.Conv2d):
            names = ("stride", "padding", "dilation", "groups")
            options = {name: getattr(module, name) for name in names}
        self._products: list[Product] = []
        scales: list[Tensor] = []
        for weight, scale, zero_point, codes in stored.grids():
            bits = stored.row["weight_bits"]
            grid = (over_weight(scale, weight), over_weight(zero_point, weight))
            held = quantize(weight, *grid, bits) if codes is None else codes
            self._products.append(Product(held, zero_point, bits, options, exact_bits=exact_bits))
            scales.append(scale.float())
        bias = None if module.bias is None else module.bias.detach().float()
        # One row for all calls, or one a call. Rows are what the operators are given.
        self._scales = list(scales[0][None])
        self._biases: list[Tensor | None] = [bias]
        self._second = scales[-1]
        if stored.correction is not None:
            gain_TC, offset_TC = stored.correction.float().unbind(1)
            self._scales = list(scales[0] * gain_TC)
            self._biases = list(offset_TC if bias is None else bias + offset_TC)

    def forward(self, x: Tensor, gelu: str = "") -> Tensor:
        """gelu: of the output of a layer that is not split: none or tanh, as `torch.nn.functional.gelu` has them."""
        return self._forward(x.float(), gelu).to(x.dtype)

    def _forward(self, x: Tensor, gelu: str) -> Tensor:
        call = self._call_index.value
        row = call if len(self._scales) > 1 else 0
        scale_O, bias_O = self._scales[row], self._biases[row]
        if not self.split:
            return self._product(0, x, call, scale_O, bias_O, gelu=gelu)
        out = self._product(0, x[:, : self.split], call, scale_O, None)
        return self._product(1, x[:, self.split :], call, self._second, bias_O, onto=out)

    def _product(
        self, index: int, x: Tensor, call: int, scale_O: Tensor, bias_O: Tensor | None, **after: Any
    ) -> Tensor:
        quantizer, product = self._quantizers[index], self._products[index]
        layout = torch.channels_last if self._convolution else torch.contiguous_format
        if isinstance(quantizer, ActQuantizer):
            scale, zero_point = quantizer.grid(call)
            codes = to_codes(x, scale, zero_point, quantizer.bits, layout)
            return product(codes, scale, zero_point, scale_O, bias_O, **after)
        grids = quantizer.grids(x)  # one a token, or one an image, which then is multiplied alone
        if quantizer.of == "token":
            return product.of_rows(x, *grids, quantizer.bits, scale_O, bias_O, **after)
        outs, onto = [], after.pop("onto", None)
        for i, (scale, zero_point) in enumerate(zip(*(grid.flatten().tolist() for grid in grids), strict=True)):
            one = {} if onto is None else {"onto": onto[i : i + 1]}
            codes = to_codes(x[i : i + 1], scale, zero_point, quantizer.bits, layout)
            outs.append(product(codes, scale, zero_point, scale_O, bias_O, **one, **after))
        return torch.cat(outs)

    @property
    def num_bytes(self) -> int:
        """Of its weights in memory: codes as they are multiplied, scales and biases."""
        rows = [*self._scales, *(bias for bias in self._biases if bias is not None)]
        return sum(product.num_bytes for product in self._products) + sum(4 * len(row) for row in rows)


@dataclass(frozen=True, kw_only=True)
class Executed:
    """How one layer or attention runs. reason: why not in integers; "" where it does."""

    name: str
    kind: str
    num_weights: int
    reason: str


def coverage(network: Any, params: QuantParams, *, exact_bits: int) -> tuple[Executed, ...]:
    """How each layer of the network runs that the parameters know of. network: in full precision or quantized."""
    executed = []
    for row in params.coverage:
        module = network.backbone.get_submodule(row["name"])
        weights = 0 if row["kind"] == "attention" else module.weight.numel()
        reason = row["reason"] or in_float(module, row, exact_bits=exact_bits)
        executed.append(Executed(name=row["name"], kind=row["kind"], num_weights=weights, reason=reason))
    return tuple(executed)


def in_float(module: nn.Module, row: Mapping[str, Any], *, exact_bits: int) -> str:
    """Why a layer is simulated in float32 and not multiplied in integers; "" where it is. row: of the coverage."""
    if row["kind"] == "attention":
        return f"quantize.attention={row['dtype']}" if row.get("dtype") else "products of attention"
    if reason := no_integers(row, exact_bits=exact_bits):
        return reason
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return f"padding {module.padding_mode} {module.padding}"
    weight = module.weight
    assert isinstance(weight, Tensor)
    return f"fewer than {SMALLEST} weights" if weight.numel() < SMALLEST else ""


def no_integers(row: Mapping[str, Any], *, exact_bits: int) -> str:
    """What of a layer's grids integer products have no place for, whatever its shape; "" where there is nothing."""
    if group := row.get("weight_group"):
        return f"a weight scale for every {group} input channels"
    if row["act_bits"] > HELD_BITS:
        return f"activations of {row['act_bits']} bits"
    if row["weight_bits"] > exact_bits:
        return f"weights of {row['weight_bits']} bits, and {exact_bits} are multiplied exactly here"
    return ""
