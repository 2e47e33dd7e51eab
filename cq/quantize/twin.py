"""The fake-quantized twin of a denoiser, from stored parameters alone: whichever quantizer chose them."""

import copy
from collections.abc import Mapping
from typing import Any

from cq.core.acceleration import NO_CORRECTION
from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.denoiser import GuidedDenoiser
from cq.quantize.attention import QuantAttention
from cq.quantize.layers import ActQuantizer, QuantLayer, QuantWeight, halves

OPERANDS = ("q", "k", "v", "p")


def fake_quantized(
    denoiser: GuidedDenoiser, params: QuantParams, correction: ChannelAffine = NO_CORRECTION
) -> GuidedDenoiser:
    """The denoiser with fake-quantized layers; the very same one where nothing is quantized.

    correction: gain and offset of the output that quantized layers make of the reused map, by layer. The denoiser that
    was given stays as it is.
    """
    if not params.bits:
        return denoiser
    twin = denoiser.with_network(copy.deepcopy(denoiser.network))
    backbone = twin.network.backbone
    for row in params.coverage:
        if row["reason"]:
            continue
        name = row["name"]
        quantizers = {
            key: ActQuantizer.stored(bits, params.tensors, key, call_index=twin.call_index)
            for key, bits in quantizer_bits(row).items()
        }
        module = backbone.get_submodule(name)
        if row["kind"] == "attention":
            module.set_processor(QuantAttention({op: quantizers[f"{name}.{op}"] for op in OPERANDS}))
            continue
        weights = [
            QuantWeight(
                part.detach(), row["weight_bits"],
                scale=params.tensors[f"{name}.weight{i}/scale"],
                zero_point=params.tensors[f"{name}.weight{i}/zero_point"],
                codes=params.tensors.get(f"{name}.weight{i}/codes"),
            )
            for i, part in enumerate(halves(module.weight, row["split"]))
        ]  # fmt: skip
        layer = QuantLayer(
            module, split=row["split"], weights=weights, quantizers=list(quantizers.values()),
            call_index=twin.call_index,
        )  # fmt: skip
        if name in correction.tables:
            layer.correction = correction.tables[name].to(module.weight.device, copy=True)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, layer)
    return twin


def entry_layers(denoiser: GuidedDenoiser, params: QuantParams) -> list[str]:
    """The quantized layers that read what is cached: where the correction of quantized outputs applies.

    Where a concatenation is not split there is no cached half to correct.
    """
    readers = set(denoiser.network.readers(denoiser.sites))
    concatenated = set(denoiser.network.splits())
    return [
        row["name"]
        for row in params.coverage
        if not row["reason"] and row["name"] in readers and (row["split"] or row["name"] not in concatenated)
    ]


def quantizer_bits(row: Mapping[str, Any]) -> dict[str, int]:
    """Activation quantizers of a layer, by name, in the order of its inputs. row: of the coverage."""
    name = row["name"]
    if row["kind"] == "attention":  # whose softmax output has its bits in the place of a weight's
        return {f"{name}.{op}": row["weight_bits"] if op == "p" else row["act_bits"] for op in OPERANDS}
    return {f"{name}.input{i}": row["act_bits"] for i in range(2 if row["split"] else 1)}
