"""A scenario's model made ready to run in one way: by the product's own quantizer and engine, or as a baseline."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from cq.bench.onednn import pack_layers
from cq.bench.scenario import Scenario, Way
from cq.bench.subject import Subject
from cq.core.acceleration import FULL_PRECISION, Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams
from cq.core.contracts import Engine, Quantizer
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.core.store import Store
from cq.engine.between import ChannelsLast
from cq.engine.kernels import weight_bits
from cq.quantize.twin import entry_layers, quantizer_bits
from cq.run.building import build
from cq.run.compose import composed, composing


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What is timed: `denoiser` under `acceleration`, for the calls of the measured trajectory."""

    denoiser: Denoiser
    acceleration: Acceleration


def settings_of(scenario: Scenario, way: Way) -> DictConfig:
    """The configuration of a way; where weights of 8 bits are not multiplied exactly, with as many as are."""
    with composing():
        config, _ = composed([*scenario.settings, *way.settings])
        bits = min(int(config.budget.weight_bits), weight_bits())
        if "weight_bits" not in config.quantize or bits == config.budget.weight_bits or bits == 0:
            return config
        return composed(
            [*scenario.settings, *way.settings, f"budget.weight_bits={bits}", f"quantize.edge_bits={bits}"]
        )[0]


@torch.no_grad()
def ready(scenario: Scenario, way: Way, subject: Subject, config: DictConfig, store: Store) -> Ready:
    """The denoiser that a deployment would run, with corrections at every call, as after a whole calibration.

    Ranges are of one call of the subject and the same at all calls; gains are one and offsets zero. Both are executed
    as if they were not. store: keeps ranges, for other threads and caps. Raises ValueError for what the engine refuses,
    and for one that would only simulate.
    """
    engine: Engine = build(config.engine, "engine", Engine)
    params = calibrated(scenario, subject, config, store)
    engine.check(quantized=bool(params.bits))
    schedule = uniform(subject.sampler.num_calls(scenario.timed_steps), scenario.intervals[0])
    denoiser = subject.denoiser
    acceleration = Acceleration(
        schedule=schedule, params=params, cache=_neutral(subject.channels, schedule.num_calls),
        quant=_neutral(_outputs(denoiser, params), schedule.num_calls),
    )  # fmt: skip
    if not engine.real(acceleration):
        raise ValueError(
            f"way {way.label!r}: its engine would only simulate, and a simulation is never timed. Set engine=int8."
        )
    return Ready(denoiser=engine.lower(_laid_out(denoiser, way), acceleration), acceleration=acceleration)


def uniform(num_calls: int, interval: int) -> CacheSchedule:
    """A refresh every `interval` calls; 1 for all."""
    return CacheSchedule(
        num_calls=num_calls, refresh_calls=tuple(range(0, num_calls, interval)), planner="uniform", interval=interval
    )


def calibrated(scenario: Scenario, subject: Subject, config: DictConfig, store: Store) -> QuantParams:
    """Ranges by the quantizer of `config` from one call, as rows for every call; none for quantize=none."""
    if "weight_bits" not in config.quantize:
        return FULL_PRECISION
    quantizer: Quantizer = build(config.quantize, "quantize", Quantizer)

    def one_call(denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
        subject.call(denoiser)
        yield 0

    def make(shards: Path) -> QuantParams:
        return quantizer.ranges.calibrate(subject.denoiser, one_call, num_calls=1, shards=shards)

    asked = {"model": OmegaConf.to_container(config.model, resolve=True), "architecture": scenario.architecture}
    key = {**asked, "images": scenario.images, "quantize": OmegaConf.to_container(config.quantize, resolve=True)}
    params = store.get("bench_ranges", key, QuantParams, make)
    calls = subject.sampler.num_calls(scenario.timed_steps)
    inputs = {name for row in params.coverage if not row["reason"] for name in quantizer_bits(row)}
    tensors = {
        name: tensor.expand(calls).clone() if name.rpartition("/")[0] in inputs and len(tensor) == 1 else tensor
        for name, tensor in params.tensors.items()
    }
    return replace(params, tensors=tensors)


def _laid_out(denoiser: GuidedDenoiser, way: Way) -> GuidedDenoiser:
    """The denoiser with its layers as the way has them; weights that are not packed are shared."""
    if way.layers == "pytorch":
        return denoiser
    network: Any = denoiser.network
    shared = {} if way.layers == "channels_last" else {id(tensor): tensor for tensor in network.parameters()}
    network = copy.deepcopy(network, shared)
    if way.layers == "onednn":
        pack_layers(network)
    else:
        network.to(memory_format=torch.channels_last)
    return denoiser.with_network(ChannelsLast(network))


def _outputs(denoiser: GuidedDenoiser, params: QuantParams) -> dict[str, int]:
    """Output channels of the quantized layers that read what is cached."""
    backbone = denoiser.network.backbone
    return {name: len(backbone.get_submodule(name).weight) for name in entry_layers(denoiser, params)}


def _neutral(channels: dict[str, int], num_calls: int) -> ChannelAffine:
    """A correction of every channel at every call that changes nothing."""
    tables: dict[str, Tensor] = {
        name: torch.stack([torch.ones(num_calls, width), torch.zeros(num_calls, width)], dim=1)
        for name, width in channels.items()
    }
    return ChannelAffine(schedule="", tables=tables, r2={})
