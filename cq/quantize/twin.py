"""The fake-quantized twin of a denoiser, from stored parameters alone: whichever quantizer chose them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cq.core.acceleration import NO_CORRECTION
from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.call import CallIndex
from cq.core.denoiser import GuidedDenoiser, within
from cq.quantize.attention import Attention, BFloat16Attention, QuantAttention
from cq.quantize.layers import ActQuantizer, DynamicQuantizer, InputQuantizer, QuantLayer, QuantWeight, halves

OPERANDS = ("q", "k", "v", "p")


@dataclass(frozen=True, kw_only=True)
class StoredLayer:
    """One quantized Conv2d or Linear as parameters describe it. row: of the coverage. correction: [T, 2, O], or None.

    quantizers: of its input, or of the two halves of it. call_index: of the denoiser that the layer will run in.
    """

    module: nn.Conv2d | nn.Linear
    row: Mapping[str, Any]
    params: QuantParams
    quantizers: Sequence[InputQuantizer]
    correction: Tensor | None
    call_index: CallIndex

    def grids(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Of each half: the float weight, its scale and zero point [O], and its codes where they are stored."""
        tensors, name = self.params.tensors, self.row["name"]
        for index, part in enumerate(halves(self.module.weight, self.row["split"])):
            key = f"{name}.weight{index}"
            yield part.detach(), tensors[f"{key}/scale"], tensors[f"{key}/zero_point"], tensors.get(f"{key}/codes")

    def simulated(self) -> QuantLayer:
        """The layer that computes in float32 on the grids."""
        weights = [
            QuantWeight(part, self.row["weight_bits"], scale=scale, zero_point=zero_point, codes=codes)
            for part, scale, zero_point, codes in self.grids()
        ]
        layer = QuantLayer(
            self.module, split=self.row["split"], weights=weights, quantizers=self.quantizers,
            call_index=self.call_index,
        )  # fmt: skip
        layer.correction = self.correction
        return layer


def fake_quantized(
    denoiser: GuidedDenoiser, params: QuantParams, correction: ChannelAffine = NO_CORRECTION, *, share: bool = False
) -> GuidedDenoiser:
    """The denoiser with fake-quantized layers; the very same one where nothing is quantized. See `with_layers`."""
    return with_layers(denoiser, params, correction, StoredLayer.simulated, share=share)


def with_layers(
    denoiser: GuidedDenoiser, params: QuantParams, correction: ChannelAffine,
    make: Callable[[StoredLayer], nn.Module], *, share: bool,
) -> GuidedDenoiser:  # fmt: skip
    """The denoiser with every quantized layer replaced by what `make` makes of it.

    correction: gain and offset of the output that quantized layers make of the reused map, by layer. The denoiser that
    was given stays as it is. share: whether what is not quantized is held once for both, to serve and not to train.
    """
    if not params.bits:
        return denoiser
    network: Any = denoiser.network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())} if share else {}
    twin = denoiser.with_network(copy.deepcopy(network, shared))
    backbone = twin.network.backbone
    for row in params.coverage:
        if row["reason"]:
            continue
        name = row["name"]
        module = backbone.get_submodule(name)
        widths, quantizers = quantizer_bits(row), dict[str, ActQuantizer]()
        if not (dynamic := row.get("dynamic")):
            quantizers = {
                key: ActQuantizer.stored(bits, params.tensors, key, call_index=twin.call_index)
                for key, bits in widths.items()
            }
        if row["kind"] == "attention":
            module.set_processor(attention_of(row, quantizers))
            continue
        inputs = [DynamicQuantizer(bits, of=dynamic) for bits in widths.values()] if dynamic else [*quantizers.values()]
        table = correction.tables.get(name)
        where = params.tensors[f"{name}.weight0/scale"].device if module.weight.is_meta else module.weight.device
        stored = StoredLayer(
            module=module, row=row, params=params, quantizers=inputs, call_index=twin.call_index,
            correction=None if table is None else table.to(where, copy=True),
        )  # fmt: skip
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, make(stored))
    return twin


def entry_layers(denoiser: GuidedDenoiser, params: QuantParams) -> list[str]:
    """The quantized layers that read what is cached: where the correction of quantized outputs applies.

    Where a concatenation is not split there is no cached half to correct.
    """
    readers = set(denoiser.network.readers(within(denoiser.sites)))
    concatenated = set(denoiser.network.splits())
    return [
        row["name"]
        for row in params.coverage
        if not row["reason"] and row["name"] in readers and (row["split"] or row["name"] not in concatenated)
    ]


def attention_of(row: Mapping[str, Any], quantizers: Mapping[str, ActQuantizer]) -> Attention:
    """The processor that a row of the coverage asks for. quantizers: by name, those of `quantizer_bits` among them."""
    if row.get("dtype"):
        return BFloat16Attention()
    return QuantAttention({op: quantizers[f"{row['name']}.{op}"] for op in OPERANDS})


def quantizer_bits(row: Mapping[str, Any]) -> dict[str, int]:
    """Activation quantizers of a layer, by name, in the order of its inputs. row: of the coverage."""
    name = row["name"]
    if row.get("dtype"):  # floating point numbers, which need no parameters
        return {}
    if row["kind"] == "attention":  # whose softmax output has its bits in the place of a weight's
        return {f"{name}.{op}": row["weight_bits"] if op == "p" else row["act_bits"] for op in OPERANDS}
    return {f"{name}.input{i}": row["act_bits"] for i in range(2 if row["split"] else 1)}
