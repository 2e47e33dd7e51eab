"""Static post-training quantization from trajectories: weights per output channel, activations per tensor."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.values import Batch, Count, Distinct
from cq.models.denoiser import GuidedDenoiser
from cq.quantize.affine import MAX_BITS, MIN_BITS
from cq.quantize.layers import ActQuantizer, QuantAttention, QuantLayer, QuantWeight, choose_weight_qparams, halves
from cq.quantize.observers import Observer
from cq.quantize.policy import LayerPolicy, layer_policies, refuse_all, refuse_unused

OPERANDS = ("q", "k", "v", "p")


@dataclass(frozen=True, kw_only=True)
class PTQ:
    """Q-Diffusion's layer coverage with CacheQuant's per-call activation scales.

    per_call: one activation scale a call, else one shared by all. split: separate quantizers for the two halves
    of concatenated inputs. trajectory: calibrate activations on the cached, corrected trajectory that is
    deployed, or on the full one. exclude: name patterns of layers that stay in full precision.
    """

    weight_bits: int
    act_bits: int
    edge_bits: int
    softmax_bits: int
    weight_observer: Observer
    act_observer: Observer
    per_call: bool
    split: bool
    attention: bool
    exclude: Annotated[tuple[str, ...], Distinct()]
    trajectory: Literal["deployed", "full"]
    num_samples: Count
    batch_size: Batch

    def __post_init__(self) -> None:
        for key in ("weight_bits", "act_bits", "edge_bits", "softmax_bits"):
            bits = getattr(self, key)
            if not MIN_BITS <= bits <= MAX_BITS:
                raise ValueError(f"quantize.{key}={bits}: must lie in {MIN_BITS}..{MAX_BITS}. 8 and 4 are usual.")
        if self.num_samples < 1 or self.batch_size < 1:
            raise ValueError("quantize.num_samples and quantize.batch_size: must be at least 1.")

    def check_layers(self, names: frozenset[str]) -> None:
        """Raise ValueError for a pattern of `exclude` that no layer has."""
        unused = [pattern for pattern in self.exclude if not any(fnmatch(name, pattern) for name in names)]
        refuse_unused(unused, names)
        refuse_all(self.exclude, names)

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        """Run the trajectories in full precision and fix every scale and zero point; nothing is left in `shards`.

        Activations of one call are pooled over all samples before its scale is searched.
        """
        observed = denoiser.with_network(copy.deepcopy(denoiser.network))
        policies = self._policies(observed)
        quantizers = {
            name: ActQuantizer(
                bits, observer=self.act_observer, call_index=observed.call_index, num_calls=num_calls,
                per_call=self.per_call,
            )
            for policy in policies
            if policy.quantized
            for name, bits in _quantizer_bits(policy).items()
        }  # fmt: skip
        for policy in policies:
            if policy.quantized:
                _observe(observed.network.backbone.get_submodule(policy.name), policy, quantizers)
        for call in trajectories(observed, deployed=self.trajectory == "deployed"):
            for quantizer in quantizers.values():
                quantizer.close(call)
        tensors: dict[str, Tensor] = {}
        bits: dict[str, int] = {}
        for name, quantizer in quantizers.items():
            quantizer.finish()
            tensors |= quantizer.write(name)
            bits[name] = quantizer.bits
        for policy in policies:
            if policy.quantized and policy.kind != "attention":
                layer = denoiser.network.backbone.get_submodule(policy.name)
                for index, weight in enumerate(halves(layer.weight, policy.split)):
                    name = f"{policy.name}.weight{index}"
                    scale, zero_point = choose_weight_qparams(weight.cpu(), policy.weight_bits, self.weight_observer)
                    tensors |= {f"{name}/scale": scale, f"{name}/zero_point": zero_point}
                    bits[name] = policy.weight_bits
        return QuantParams(tensors=tensors, bits=bits, coverage=tuple(policy.row() for policy in policies))

    def quantize(self, denoiser: GuidedDenoiser, params: QuantParams, correction: ChannelAffine) -> GuidedDenoiser:
        """The fake-quantized twin; the denoiser that was given stays as it is."""
        twin = denoiser.with_network(copy.deepcopy(denoiser.network))
        backbone = twin.network.backbone
        rows = {policy.name: policy for policy in self._policies(twin)}

        def reader(name: str, bits: int) -> ActQuantizer:
            quantizer = ActQuantizer(
                bits, observer=self.act_observer, call_index=twin.call_index, num_calls=1, per_call=self.per_call
            )
            quantizer.read(params.tensors, name)
            return quantizer

        for name, policy in rows.items():
            if not policy.quantized:
                continue
            quantizers = {key: reader(key, bits) for key, bits in _quantizer_bits(policy).items()}
            module = backbone.get_submodule(name)
            if policy.kind == "attention":
                module.set_processor(QuantAttention({op: quantizers[f"{name}.{op}"] for op in OPERANDS}))
                continue
            weights = [
                QuantWeight(
                    part.detach(), policy.weight_bits,
                    scale=params.tensors[f"{name}.weight{i}/scale"],
                    zero_point=params.tensors[f"{name}.weight{i}/zero_point"],
                    codes=params.tensors.get(f"{name}.weight{i}/codes"),
                )
                for i, part in enumerate(halves(module.weight, policy.split))
            ]  # fmt: skip
            layer = QuantLayer(
                module, split=policy.split, weights=weights, quantizers=list(quantizers.values()),
                call_index=twin.call_index,
            )  # fmt: skip
            if name in correction.tables:
                layer.correction = correction.tables[name].to(module.weight.device, copy=True)
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, layer)
        return twin

    def entry_layers(self, denoiser: GuidedDenoiser) -> list[str]:
        """The quantized layers that read what is cached: where the output correction applies.

        Where a concatenation is not split there is no cached half to correct.
        """
        readers = set(denoiser.network.readers(denoiser.sites))
        concatenated = set(denoiser.network.splits())
        return [
            policy.name
            for policy in self._policies(denoiser)
            if policy.quantized and policy.name in readers and (policy.split or policy.name not in concatenated)
        ]

    def _policies(self, denoiser: GuidedDenoiser) -> list[LayerPolicy]:
        return layer_policies(
            denoiser.network, weight_bits=self.weight_bits, act_bits=self.act_bits, edge_bits=self.edge_bits,
            softmax_bits=self.softmax_bits, split=self.split, attention=self.attention, exclude=self.exclude,
        )  # fmt: skip


def _quantizer_bits(policy: LayerPolicy) -> dict[str, int]:
    """Activation quantizers of a layer, by name, in the order of its inputs."""
    if policy.kind == "attention":
        return {f"{policy.name}.{op}": policy.weight_bits if op == "p" else policy.act_bits for op in OPERANDS}
    return {f"{policy.name}.input{i}": policy.act_bits for i in range(2 if policy.split else 1)}


def _observe(module: Any, policy: LayerPolicy, quantizers: Mapping[str, ActQuantizer]) -> None:
    if policy.kind == "attention":
        module.set_processor(QuantAttention({op: quantizers[f"{policy.name}.{op}"] for op in OPERANDS}))
        return
    inputs = [quantizers[name] for name in _quantizer_bits(policy)]

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        parts = (args[0][:, : policy.split], args[0][:, policy.split :]) if policy.split else (args[0],)
        for quantizer, part in zip(inputs, parts, strict=True):
            quantizer(part)

    module.register_forward_pre_hook(hook)
