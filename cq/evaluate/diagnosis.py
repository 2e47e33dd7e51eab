"""Where a run's error comes from: each quantized layer beside its full-precision self, and what each call really ran.

Every layer gets the input that the full-precision network gives it, so that its error is its own and none that layers
before it made. Legend: T call, K call that is looked at, L layer, I activation quantizer, C output channel.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.artifacts import Artifact, CacheSchedule, QuantParams
from cq.core.denoise import DenoiseStep
from cq.core.denoiser import GuidedDenoiser
from cq.evaluate.efficiency import counting
from cq.quantize.layers import QuantLayer

CENTRAL = (0.001, 0.999)  # quantiles between which values count as common
SAMPLED = 2**16  # values of an input that the quantiles are taken of, evenly spread
LOOKED_AT = 4  # calls of either kind, whole and cached


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Artifact):
    """What a small batch says of a run, along the cached path that is deployed.

    calls: those that are looked at. macs_T: multiply-accumulates that each call ran, for one row of the batch.
    layers: the quantized Conv2d and Linear, in the order of the network, and inputs: their activation quantizers.
    error_KL: squared error of a layer's output over its square, with its correction; nan where it did not run.
    span_KI: what the quantizer's range spans over what the values do between the `CENTRAL` quantiles. clipped_KI: the
        share of values beyond that range.
    mean_error, square_error, square: by layer, [C], of the output's error and of the output itself, over those calls.
    """

    num_images: int
    calls: tuple[int, ...]
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    macs_T: Tensor
    error_KL: Tensor
    span_KI: Tensor
    clipped_KI: Tensor
    mean_error: Mapping[str, Tensor]
    square_error: Mapping[str, Tensor]
    square: Mapping[str, Tensor]

    @property
    def share_L(self) -> Tensor:
        """Of the sum of all layers' relative squared errors, over the calls that are looked at; sums to 1."""
        error_L = self.error_KL.nan_to_num(0.0).sum(0)
        return error_L / error_L.sum().clamp(min=torch.finfo(error_L.dtype).tiny)

    @property
    def relative_error_L(self) -> Tensor:
        """The root of a layer's mean relative squared error."""
        return self.error_KL.nanmean(0).sqrt()


def looked_at(schedule: CacheSchedule) -> tuple[int, ...]:
    """A few refreshes and a few cached calls, evenly spread over either kind."""
    refresh = set(schedule.refresh_calls)
    kinds = (list(schedule.refresh_calls), [call for call in range(schedule.num_calls) if call not in refresh])
    return tuple(sorted({call for kind in kinds for call in _spread(kind)}))


def diagnosed(
    denoiser: GuidedDenoiser, twin: GuidedDenoiser, params: QuantParams, steps: Iterable[DenoiseStep], *,
    calls: tuple[int, ...], num_images: int, num_calls: int,
) -> Diagnosis:  # fmt: skip
    """Run `steps`, a loop of `denoiser` in full precision, to their end, and look. twin: the quantized denoiser."""
    rows = [row for row in params.coverage if not row["reason"] and row["kind"] != "attention"]
    found = {row["name"]: _Layer(row, params, twin) for row in rows}
    macs_T = torch.zeros(num_calls, dtype=torch.float64)
    copies = 1 if denoiser.guidance is None else 2
    with counting(denoiser.network.backbone) as macs, _watching(denoiser, found, calls):
        ran = 0
        for step in steps:
            total = sum(macs.values())
            macs_T[step.call], ran = (total - ran) / (num_images * copies), total
    inputs = [name for layer in found.values() for name in layer.inputs]
    ranges = {name: look for layer in found.values() for name, look in layer.ranges.items()}

    def table(of: Mapping[str, Mapping[int, Any]], names: Iterable[str], place: int | None = None) -> Tensor:
        rows = [[of[name].get(call, (math.nan, math.nan)) for name in names] for call in calls]
        values = [[cell if place is None else cell[place] for cell in row] for row in rows]
        return torch.tensor(values, dtype=torch.float64).view(len(calls), -1)

    return Diagnosis(
        num_images=num_images, calls=calls, layers=tuple(found), inputs=tuple(inputs), macs_T=macs_T,
        error_KL=table({name: layer.errors for name, layer in found.items()}, found, 0),
        span_KI=table(ranges, inputs, 0), clipped_KI=table(ranges, inputs, 1),
        mean_error={name: layer.mean(0) for name, layer in found.items()},
        square_error={name: layer.mean(1) for name, layer in found.items()},
        square={name: layer.mean(2) for name, layer in found.items()},
    )  # fmt: skip


@dataclass
class _Layer:
    """What is seen of one layer. errors: by call. ranges: by quantizer and call, span and clipped share."""

    row: Mapping[str, Any]
    params: QuantParams
    twin: GuidedDenoiser
    errors: dict[int, tuple[float]] = field(default_factory=dict)
    sums: Tensor | None = None  # [3, C]
    count: int = 0

    def __post_init__(self) -> None:
        layer = self.twin.network.backbone.get_submodule(self.row["name"])
        assert isinstance(layer, QuantLayer)
        self.layer = layer
        places = () if self.row.get("dynamic") else range(len(layer.quantizers))  # such a range is none that can be off
        self.inputs = [f"{self.row['name']}.input{place}" for place in places]
        self.ranges: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in self.inputs}

    def look(self, x: Tensor, target: Tensor, call: int) -> None:
        """x, target: what the full-precision layer got and made of it."""
        split = self.layer.split
        for name, part in zip(self.inputs, [x[:, :split], x[:, split:]] if split else [x], strict=False):
            self.ranges[name][call] = self._range(name, part.float(), call)
        with self.twin.call_index.at(call):
            found = self.layer(x)
        if not self.layer.convolution:  # channels come second below
            found, target = found.movedim(-1, 1), target.movedim(-1, 1)
        error, target = (t.double().movedim(1, 0).flatten(1).cpu() for t in (found.float() - target.float(), target))
        square_error, square = error.square().sum(), target.square().sum()
        self.errors[call] = (float(square_error / square) if square > 0 else math.nan,)
        sums = torch.stack([error.sum(1), error.square().sum(1), target.square().sum(1)])
        self.sums, self.count = sums if self.sums is None else self.sums + sums, self.count + error.shape[1]

    def mean(self, place: int) -> Tensor:
        """[C], of error, squared error or square; empty where the layer ran at none of the calls."""
        return torch.zeros(0) if self.sums is None else (self.sums[place] / self.count).float()

    def _range(self, name: str, x: Tensor, call: int) -> tuple[float, float]:
        scales = self.params.tensors[f"{name}/scale"]
        row = call if len(scales) > 1 else 0
        scale, zero_point = float(scales[row]), int(self.params.tensors[f"{name}/zero_point"][row])
        levels = 2 ** self.params.bits[name] - 1
        # Beyond half a step from the ends, more than rounding is lost.
        low, high = -(zero_point + 0.5) * scale, (levels - zero_point + 0.5) * scale
        values = x.flatten()
        clipped = float(((values < low) | (values > high)).float().mean())
        common = values[:: math.ceil(len(values) / SAMPLED)].quantile(torch.tensor(CENTRAL, device=x.device))
        span = float(common[1].clamp(min=0) - common[0].clamp(max=0))  # a range always holds zero
        return (levels * scale / span if span > 0 else math.nan, clipped)


@contextmanager
def _watching(denoiser: GuidedDenoiser, layers: Mapping[str, _Layer], calls: tuple[int, ...]) -> Iterator[None]:
    wanted, index = set(calls), denoiser.call_index

    def hook_of(layer: _Layer) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if index.value in wanted:
                layer.look(args[0], out, index.value)

        return hook

    backbone = denoiser.network.backbone
    handles = [backbone.get_submodule(name).register_forward_hook(hook_of(layer)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spread(calls: list[int]) -> list[int]:
    """At most LOOKED_AT of them: the first, the last, and evenly between."""
    last, several = len(calls) - 1, min(LOOKED_AT, len(calls)) - 1
    return [calls[round(place * last / several)] if several else calls[0] for place in range(several + 1)]
