"""How near an engine comes to the simulation: signal-to-noise ratios on equal inputs, of layers and of predictions.

Rounding differences flip codes where a value lies between two, and a flip goes on through the network; so a prediction
is judged beside what the simulation does to itself where only the order of its sums changes: `channels_last`,
`reversed_sums` and `exact_sums`.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.denoiser import Denoiser, DenoiserOutput, GuidedDenoiser
from cq.engine.between import ChannelsLast
from cq.quantize.layers import QuantLayer


class Ratio:
    """Signal to noise, over all that was added."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """found beside wanted, of one shape."""
        self._signal += float(wanted.double().square().sum())
        self._noise += float((found.double() - wanted.double()).square().sum())

    @property
    def db(self) -> float:
        """10 log10 of signal over noise; infinite where nothing differs."""
        return 10 * math.log10(self._signal / self._noise) if self._noise else math.inf


class SideBySide:
    """A denoiser that computes as `first`, and asks the others the same at every call. ratios: of theirs to its own."""

    def __init__(self, first: Denoiser, others: Mapping[str, Denoiser]) -> None:
        self._first, self._others = first, others
        self.ratios = {name: Ratio() for name in others}

    @property
    def sites(self) -> tuple[str, ...]:
        return self._first.sites

    def __call__(self, x_NCHW: Tensor, **options: Any) -> DenoiserOutput:
        out = self._first(x_NCHW, **options)
        for name, other in self._others.items():
            self.ratios[name].add(out.eps_NCHW, other(x_NCHW, **options).eps_NCHW)
        return out


class Layers:
    """Each fake-quantized layer of `twin` beside its counterpart in an executed denoiser, on the twin's own inputs.

    Both of one Acceleration. ratios: by layer that the other computes in another way than the twin does; they fill
    while the twin runs.
    """

    def __init__(self, twin: GuidedDenoiser, executed: GuidedDenoiser) -> None:
        self.ratios: dict[str, Ratio] = {}
        for name, layer in twin.network.backbone.named_modules():
            other = executed.network.backbone.get_submodule(name) if isinstance(layer, QuantLayer) else None
            if other is not None and not isinstance(other, QuantLayer):
                self.ratios[name] = ratio = Ratio()
                layer.register_forward_hook(self._compared(ratio, other, twin, executed))

    @staticmethod
    def _compared(ratio: Ratio, other: nn.Module, twin: GuidedDenoiser, executed: GuidedDenoiser) -> Any:
        def compare(_: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
            with executed.call_index.at(twin.call_index.value):
                ratio.add(out, other(inputs[0].clone()))

        return compare


def channels_last(twin: GuidedDenoiser) -> GuidedDenoiser:
    """A copy of a simulation in that memory format, by which convolutions add up in another order."""
    copied = copy.deepcopy(twin)
    copied.network.backbone.to(memory_format=torch.channels_last)
    return replace(copied, network=ChannelsLast(copied.network))


def reversed_sums(twin: GuidedDenoiser) -> GuidedDenoiser:
    """A copy of a simulation whose quantized linear layers add up from the last input to the first.

    A transformer is the same in every memory format.
    """
    copied = copy.deepcopy(twin)
    for layer in copied.network.backbone.modules():
        if isinstance(layer, QuantLayer) and not layer.convolution and not layer.split:
            weight: Any = layer.weights[0]
            weight.value = weight.value.flip(-1)
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(-1),))
    return copied


def exact_sums(twin: GuidedDenoiser) -> GuidedDenoiser:
    """A copy of a simulation whose quantized layers multiply and add in float64: what no engine comes nearer than.

    It differs from the simulation by the simulation's own rounding, which the other two share in part.
    """
    copied = copy.deepcopy(twin)
    for layer in copied.network.backbone.modules():
        if isinstance(layer, QuantLayer):
            layer._product = _in_float64(layer._product)  # type: ignore[method-assign]
    return copied


def _in_float64(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x.double(), weight.double(), None if bias is None else bias.double()).float()

    return exact
