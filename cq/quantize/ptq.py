"""Static post-training quantization from trajectories: weights per output channel, activations per tensor."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from typing_extensions import Self

from cq.core.artifacts import QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser
from cq.core.values import Batch, Count, Distinct
from cq.quantize.affine import MAX_BITS, MIN_BITS
from cq.quantize.attention import check_norms
from cq.quantize.layers import ActQuantizer, choose_weight_qparams, halves
from cq.quantize.observers import Dynamic, Observer, Widened
from cq.quantize.policy import AttentionChoice, LayerPolicy, layer_policies, refuse_all, refuse_unused
from cq.quantize.twin import attention_of, quantizer_bits


@dataclass(frozen=True, kw_only=True)
class PTQ:
    """Q-Diffusion's layer coverage with CacheQuant's per-call activation scales.

    per_call: one activation scale a call, else one shared by all. split: separate quantizers for the two halves
    of concatenated inputs. attention: whether q, k, v and the softmax output are quantized; or in bfloat16, without
    parameters, as `BFloat16Attention` has it. trajectory: calibrate activations on the cached, corrected trajectory
    that is deployed, or on the full one. exclude: name patterns of layers that stay in full precision.
    """

    weight_bits: int
    act_bits: int
    edge_bits: int
    softmax_bits: int
    weight_observer: Observer
    act_observer: Observer
    per_call: bool
    split: bool
    attention: AttentionChoice
    exclude: Annotated[tuple[str, ...], Distinct()]
    trajectory: Literal["deployed", "full"]
    num_samples: Count
    batch_size: Batch

    def __post_init__(self) -> None:
        check_bits(self, "weight_bits", "act_bits", "edge_bits", "softmax_bits")
        if self.num_samples < 1 or self.batch_size < 1:
            raise ValueError("quantize.num_samples and quantize.batch_size: must be at least 1.")

    def check_layers(self, names: frozenset[str]) -> None:
        """Raise ValueError for a pattern of `exclude` that no layer has."""
        unused = [pattern for pattern in self.exclude if not any(fnmatch(name, pattern) for name in names)]
        refuse_unused(unused, names)
        refuse_all(self.exclude, names)

    def coverage(self, denoiser: GuidedDenoiser) -> tuple[dict[str, Any], ...]:
        """What the calibrated parameters will say of every layer: see `QuantParams`."""
        return tuple(policy.row() for policy in self._policies(denoiser))

    @property
    def ranges(self) -> "PTQ":
        """All of it."""
        return self

    def lighter(self, step: str) -> Self | None:
        """With half the batch."""
        batch = min(self.batch_size, self.num_samples)
        return None if batch == 1 else replace(self, batch_size=batch // 2)

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
                bits, observer=self._observer(policy), call_index=observed.call_index, num_calls=num_calls,
                per_call=self.per_call,
            )
            for policy in policies
            if policy.quantized and not policy.dynamic
            for name, bits in quantizer_bits(policy.row()).items()
        }  # fmt: skip
        for policy in policies:
            if policy.quantized and not policy.dynamic:
                _observe(observed.network.backbone.get_submodule(policy.name), policy, quantizers)
        for call in trajectories(observed, deployed=self.trajectory == "deployed"):
            for quantizer in quantizers.values():
                quantizer.close(call)
        tensors: dict[str, Tensor] = {}
        bits: dict[str, int] = {}
        for policy in policies:
            bits |= quantizer_bits(policy.row()) if policy.dynamic else {}
        for name, quantizer in quantizers.items():
            quantizer.finish()
            tensors |= quantizer.write(name)
            bits[name] = quantizer.bits
        for policy in policies:
            if policy.quantized and policy.kind != "attention":
                layer = denoiser.network.backbone.get_submodule(policy.name)
                for index, weight in enumerate(halves(layer.weight, policy.split)):
                    name = f"{policy.name}.weight{index}"
                    scale, zero_point = choose_weight_qparams(
                        weight.cpu(), policy.weight_bits, self.weight_observer, policy.weight_group
                    )
                    tensors |= {f"{name}/scale": scale, f"{name}/zero_point": zero_point}
                    bits[name] = policy.weight_bits
        return QuantParams(tensors=tensors, bits=bits, coverage=self.coverage(observed))

    def _observer(self, policy: LayerPolicy) -> Observer:
        wide = policy.input_range != 1
        return Widened(base=self.act_observer, factor=policy.input_range) if wide else self.act_observer

    def _policies(self, denoiser: GuidedDenoiser) -> list[LayerPolicy]:
        policies = layer_policies(
            denoiser.network, weight_bits=self.weight_bits, act_bits=self.act_bits, edge_bits=self.edge_bits,
            softmax_bits=self.softmax_bits, split=self.split, attention=self.attention, exclude=self.exclude,
        )  # fmt: skip
        if isinstance(self.act_observer, Dynamic):
            of = self.act_observer.dynamic
            return [replace(policy, dynamic=of(policy.kind)) if policy.quantized else policy for policy in policies]
        return policies


def check_bits(quantizer: PTQ, *keys: str) -> None:
    """Raise ValueError for a width of which there are no grids."""
    for key in keys:
        if not MIN_BITS <= (bits := getattr(quantizer, key)) <= MAX_BITS:
            raise ValueError(f"quantize.{key}={bits}: must lie in {MIN_BITS}..{MAX_BITS}. 8 and 4 are usual.")


def _observe(module: Any, policy: LayerPolicy, quantizers: Mapping[str, ActQuantizer]) -> None:
    if policy.kind == "attention":
        check_norms(module)
        if not policy.dtype:  # which has nothing to observe
            module.set_processor(attention_of(policy.row(), quantizers))
        return
    inputs = [quantizers[name] for name in quantizer_bits(policy.row())]

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        parts = (args[0][:, : policy.split], args[0][:, policy.split :]) if policy.split else (args[0],)
        for quantizer, part in zip(inputs, parts, strict=True):
            quantizer(part)

    module.register_forward_pre_hook(hook)
