"""The rounding of one unit, learned from its inputs and targets."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cq.quantize.layers import ActQuantizer, QuantLayer, QuantWeight, halves
from cq.quantize.learnable import LearnedScales, RowCalls, RowQuantizer, SoftWeight
from cq.quantize.rounding import beta_at
from cq.quantize.units import UnitData


@dataclass(frozen=True, kw_only=True)
class Training:
    """The numbers of `Reconstruct` that concern one unit; see there."""

    iterations: int
    batch_rows: int
    learning_rate: float
    learned_scales: LearnedScales
    scale_learning_rate: float
    regulariser: float
    beta: tuple[float, float]
    warm_up: float


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The quantized network under work, beside the full-precision one.

    quantized, plain: backbones. Activation quantizers of `quantized` take rows of many calls, which `calls` names.
    tensors: the parameters with every weight rounded to nearest; see `QuantParams`.
    """

    quantized: Any
    plain: Any
    calls: RowCalls
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(quantized: Any, plain: Any, tensors: Mapping[str, Tensor]) -> "Workbench":
        """Replace the activation quantizers of `quantized`, in place. tensors are taken to where it runs."""
        calls = RowCalls()
        device = next(plain.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        for name, module in list(quantized.named_modules()):
            if isinstance(module, ActQuantizer):
                key, (parent, _, child) = _quantizer_name(name), name.rpartition(".")
                rows = RowQuantizer(
                    module.bits, scale=tensors[f"{key}/scale"], zero_point=tensors[f"{key}/zero_point"], calls=calls
                )
                setattr(quantized.get_submodule(parent), child, rows)
        return Workbench(quantized=quantized, plain=plain, calls=calls, tensors=tensors)

    def unit(self, name: str) -> Any:
        return self.quantized.get_submodule(name)

    def weights(self, unit: str) -> Iterator[tuple[str, QuantLayer, int, Tensor]]:
        """Name, layer, half and float values of every quantized weight inside the unit."""
        for below, layer in self.unit(unit).named_modules():
            if isinstance(layer, QuantLayer):
                name = f"{unit}.{below}" if below else unit
                for index, part in enumerate(halves(self.plain.get_submodule(name).weight, layer.split)):
                    yield f"{name}.weight{index}", layer, index, part.detach()

    def quantizers(self, unit: str) -> Iterator[tuple[str, RowQuantizer]]:
        """Name and module of every activation quantizer inside the unit."""
        for below, module in self.unit(unit).named_modules():
            if isinstance(module, RowQuantizer):
                yield _quantizer_name(f"{unit}.{below}"), module

    def install(self, unit: str, learned: Mapping[str, Tensor]) -> None:
        """Give the unit learned codes and scales; what is not among them gets nearest rounding and the base's scale."""
        for name, layer, index, part in self.weights(unit):
            layer.weights[index] = QuantWeight(
                part, _bits(layer, index), scale=self.tensors[f"{name}/scale"],
                zero_point=self.tensors[f"{name}/zero_point"], codes=learned.get(f"{name}/codes"),
            )  # fmt: skip
        for name, quantizer in self.quantizers(unit):
            quantizer.settle(learned.get(f"{name}/scale", self.tensors[f"{name}/scale"]))

    @torch.no_grad()
    def error(self, unit: str, data: UnitData, batch_rows: int) -> float:
        """Mean squared difference between the unit's output, as it would be deployed, and the target."""
        total = 0.0
        for start in range(0, len(data), batch_rows):
            rows = slice(start, start + batch_rows)
            with self.calls.at(data.calls_R[rows]):
                total += float((data.output(self.unit(unit), rows) - data.target[rows]).double().square().sum())
        return total / data.target.numel()


def learn_unit(bench: Workbench, unit: str, data: UnitData, training: Training, *, seed: int) -> dict[str, Tensor]:
    """Codes of every weight of the unit, and the scales of its activations where they are learned.

    Minimises the mean squared error of the unit's output, in units of nearest rounding's, plus `regulariser` times
    the mean indecision of the weights (AdaRound, eq. 25; a unit is a block, as in BRECQ, arXiv:2102.05426). One Adam
    for the rounding and one for the scales, each kept over all iterations; the scales' rate falls to 0 on a cosine.
    The unit is left soft: install something.
    """
    nearest = bench.error(unit, data, training.batch_rows)
    soft: dict[str, SoftWeight] = {}
    for name, layer, index, part in bench.weights(unit):
        grid = {key: bench.tensors[f"{name}/{key}"] for key in ("scale", "zero_point")}
        soft[name] = layer.weights[index] = SoftWeight(part, _bits(layer, index), **grid)
    quantizers = dict(bench.quantizers(unit)) if training.learned_scales != "none" else {}
    for quantizer in quantizers.values():
        quantizer.learn(training.learned_scales)
    optimisers = [torch.optim.Adam([weight.alpha for weight in soft.values()], lr=training.learning_rate)]
    factors = [q.log_factor for q in quantizers.values() if q.log_factor is not None]
    if factors:
        optimisers.append(torch.optim.Adam(factors, lr=training.scale_learning_rate))
    size = sum(weight.alpha.numel() for weight in soft.values())
    generator = torch.Generator().manual_seed(seed)
    module: nn.Module = bench.unit(unit)
    with torch.enable_grad():
        for step in range(training.iterations):
            progress = step / training.iterations
            rows = torch.randint(len(data), (min(training.batch_rows, len(data)),), generator=generator)
            with bench.calls.at(data.calls_R[rows]):
                loss = nn.functional.mse_loss(data.output(module, rows), data.target[rows]) / nearest
            beta = beta_at(progress, training.beta, training.warm_up)
            if beta is not None:
                share = [weight.indecision(beta) * (weight.alpha.numel() / size) for weight in soft.values()]
                loss = loss + training.regulariser * torch.stack(share).sum()
            for optimiser in optimisers:
                optimiser.zero_grad()
            torch.autograd.backward(loss)
            for optimiser in optimisers[1:]:
                optimiser.param_groups[0]["lr"] = training.scale_learning_rate * (1 + math.cos(math.pi * progress)) / 2
            for optimiser in optimisers:
                optimiser.step()
    learned = {f"{name}/codes": weight.codes() for name, weight in soft.items()}
    return learned | {f"{name}/scale": quantizer.scales().detach().clone() for name, quantizer in quantizers.items()}


def _bits(layer: QuantLayer, index: int) -> int:
    weight = layer.weights[index]
    assert isinstance(weight, QuantWeight | SoftWeight)
    return weight.bits


def _quantizer_name(module: str) -> str:
    """The parameters' name of the activation quantizer at `<layer>.quantizers.I` or `<attention>.processor.OPERAND`."""
    holder, _, child = module.rpartition(".")
    layer, _, kind = holder.rpartition(".")
    return f"{layer}.input{child}" if kind == "quantizers" else f"{layer}.{child}"
