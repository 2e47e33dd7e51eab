"""What a run will cost, from a few timed calls of its own model, before it starts.

`cq-plan experiment=table5/cache_dps` says it for any overrides that `cq` takes, and starts nothing.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.calibrate.loops import NO_CORRECTION
from cq.cli.commands import ended
from cq.core.contracts import Quantizer, ReadsStatistics
from cq.core.processes import device
from cq.models.denoiser import GuidedDenoiser
from cq.models.diffusion import guiding
from cq.quantize.observers import MinMax
from cq.quantize.passes import unit_bytes
from cq.quantize.ptq import PTQ
from cq.quantize.reconstruct import Reconstruct
from cq.run.components import Components
from cq.run.config import CONF
from cq.run.identity import described
from cq.run.memory import GIB, call_bytes, peak_bytes, within_budget
from cq.run.preflight import known_schedule, needs_moments
from cq.run.stages import Run
from cq.run.unread import unread

# Measured on the bundled ldm_mini: seconds of the stages of 90 recorded runs (results/runs_table5.jsonl, 250 steps, 700
# images, 2 cores) over what its timed calls say.
PAIRS_FACTOR = 1.2  # a full call that is also compared with the maps before it
CORRECTION_FACTOR = 1.5  # a call whose entry layers also run quantized
METRIC_SECONDS, METRIC_IMAGE_SECONDS = 0.05, 0.0008  # a metric with its interval, and what an image adds

BATCH = 64  # calls are timed at the sampling batch, but at most this
MIN_MAX = PTQ(
    weight_bits=8, act_bits=8, edge_bits=8, softmax_bits=8, weight_observer=MinMax(), act_observer=MinMax(),
    per_call=True, split=True, attention=True, exclude=(), trajectory="full", num_samples=1, batch_size=1,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CallSeconds:
    """Seconds of a call of one image (guidance included), medians of a few at the sampling batch.

    full, cached: in full precision. small: what a full call of one image takes in the batch of `latency`, over that in
    the sampling batch. twin: full and fake-quantized. observed: full, with every layer's input looked at.
    search: of choosing the ranges of all layers at one call, for all images together.
    units, unit_bytes: the network's parts, for what works on one after another, and the bytes they return in a full
    call of one image. The quantized ones are zero where nothing was quantized.
    """

    full: float
    cached: float
    small: float = 1.0
    units: int = 0
    unit_bytes: int = 0
    twin: float = 0.0
    observed: float = 0.0
    search: float = 0.0


@torch.no_grad()
def time_calls(
    parts: Components, quantizer: Quantizer | None = None, *, repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> CallSeconds:  # fmt: skip
    """Run each kind of call a few times on the run's own model at its own batch size.

    quantizer: of the first quantized run, if there is one; where it is more than range search, min-max stands in.
    """
    model = parts.model.load().on(device(), getattr(torch, parts.dtype))
    batch = min(BATCH, parts.sample.batch_size)

    def inputs(count: int) -> tuple[Tensor, dict[str, Any]]:
        noise_NCHW = torch.randn(count, *parts.model.latent_shape, generator=torch.Generator().manual_seed(0))
        cond = model.condition(torch.zeros(count, dtype=torch.int64, device=model.device))
        return noise_NCHW.to(model.device), {"call": 0, "timestep": torch.tensor(500), "cond": cond}

    x_NCHW, options = inputs(batch)
    features = model.denoiser(x_NCHW, reuse={}, **options).features

    def median(denoiser: GuidedDenoiser, reuse: Mapping[str, Tensor], count: int = batch) -> float:
        x_NCHW, options = inputs(count)
        seconds = []
        for _ in range(repeats):
            started = clock()
            denoiser(x_NCHW, reuse=reuse, **options)
            _finish(model.device)
            seconds.append((clock() - started) / count)
        return statistics.median(seconds)

    full = median(model.denoiser, {})
    timed = parts.latency.repeats > 0
    units = model.denoiser.network.units()
    sizes = unit_bytes(model.denoiser.network, units, lambda: model.denoiser(x_NCHW, reuse={}, **options))
    returned = sum(size for _, size in sizes.values())
    found = CallSeconds(
        full=full, cached=median(model.denoiser, features), units=len(units), unit_bytes=returned // batch,
        small=median(model.denoiser, {}, parts.latency.batch_size) / full if timed else 1.0,
    )  # fmt: skip
    if quantizer is None:
        return found
    base = quantizer if isinstance(quantizer, PTQ) else MIN_MAX
    marks: list[float] = []

    def one_call(denoiser: GuidedDenoiser, *, deployed: bool) -> Iterator[int]:
        marks.append(clock())
        denoiser(x_NCHW, reuse={}, **options)
        marks.append(clock())
        yield 0  # the quantizer chooses the ranges of this call before it asks for the next one
        marks.append(clock())

    params = base.calibrate(model.denoiser, one_call, num_calls=1, shards=Path())
    twin = base.quantize(model.denoiser, params, NO_CORRECTION)
    return replace(
        found, twin=median(twin, {}), observed=(marks[1] - marks[0]) / batch, search=marks[2] - marks[1]
    )  # fmt: skip


def refreshes_of(parts: Components) -> int:
    """How many calls will be full: those of the schedule, where it can be known before calibration.

    Else as many as the planner says, or the uniform grid of its interval has; all where it says neither.
    """
    total = parts.sampler.num_calls(parts.sample.num_steps)
    schedule = known_schedule(parts.planner, parts.cost, total)
    if schedule is not None:
        return len(schedule.refresh_calls)
    groups, interval = (getattr(parts.planner, name, None) for name in ("num_groups", "interval"))
    return groups or (total if interval is None else math.ceil(total / interval))


def estimate_seconds(parts: Components, calls: CallSeconds, *, quantized: bool) -> dict[str, float]:
    """Seconds by stage, as if nothing were in the store."""
    total = parts.sampler.num_calls(parts.sample.num_steps)
    of_baseline = parts.baseline_sampler.num_calls(parts.baseline_steps) * calls.full
    refreshes = refreshes_of(parts)
    deployed = refreshes * calls.full + (total - refreshes) * calls.cached
    in_full_calls = deployed / calls.full
    calibration = parts.calibrate.num_samples * total * calls.full * PAIRS_FACTOR
    fitted = isinstance(parts.planner, ReadsStatistics) or needs_moments(parts.correct_cache)
    own_images = refreshes < total or quantized or not parts.is_baseline
    factor = calls.twin / calls.full if quantized else 1.0
    stages = {
        "statistics": calibration if fitted else 0.0,
        "samples_full_precision": parts.sample.num_images * of_baseline,
        "samples": parts.sample.num_images * deployed * factor if own_images else 0.0,
        "evaluation": len(parts.metrics) * (METRIC_SECONDS + METRIC_IMAGE_SECONDS * parts.sample.num_images),
    }
    if quantized:
        samples = parts.quantizer.num_samples
        stages["quant_params"] = in_full_calls * (samples * calls.observed + calls.search)
        if isinstance(parts.quantizer, Reconstruct):
            wait = parts.quantizer.waits(calls.unit_bytes * parts.quantizer.num_states, device())
            rows = 1 if guiding(parts.model.guidance) is None else 2
            image_calls = parts.quantizer.image_calls(calls.units, rows, wait=wait)
            stages["quant_params"] += image_calls * calls.twin
        if needs_moments(parts.correct_quant):
            stages["quant_correction"] = samples * deployed * CORRECTION_FACTOR
    else:
        repeats = parts.latency.repeats
        timed = (repeats + 1 if repeats else 0) * parts.latency.batch_size  # the first is not counted
        stages["timing"] = timed * (deployed + of_baseline) * calls.small
    return stages


def _finish(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take, as if nothing were in the store. memory: peak bytes, where the network runs; by stage."""

    images: int
    network_calls: int
    seconds: Mapping[str, float]
    memory: Mapping[str, int]
    disk: int

    def __str__(self) -> str:
        hours = sum(self.seconds.values()) / 3600
        stage = max(self.memory, key=lambda name: self.memory[name])
        return (
            f"{self.images} images of {self.network_calls} network calls, about {hours:.2f} hours, "
            f"peak memory {self.memory[stage] / GIB:.2f} GiB ({stage}), {self.disk / GIB:.2f} GiB on disk"
        )


def plan_of(parts: Components, *, clock: Callable[[], float] = time.perf_counter) -> Plan:
    """The plan of one run, from a few timed calls and two counted ones of its own model."""
    quantized = parts.quantizer.num_samples > 0
    model = Run(parts).model
    memory = peak_bytes(parts, call_bytes(parts, model), on_cpu=model.device.type == "cpu")
    calls = time_calls(parts, parts.quantizer if quantized else None, clock=clock)
    return Plan(
        images=parts.sample.num_images, network_calls=parts.sampler.num_calls(parts.sample.num_steps),
        seconds=estimate_seconds(parts, calls, quantized=quantized), memory=memory,
        disk=parts.disk_bytes,
    )  # fmt: skip


# Stages that runs share, and which of their parts must agree for that, beside model, step count and seed.
SHARED: Mapping[str, tuple[str, ...]] = {
    "statistics": ("strategy", "calibrate"),
    "samples_full_precision": ("sample",),
    "quant_params": ("strategy", "calibrate", "cost", "planner", "correct_cache", "predictor", "quantizer"),
}


def total_seconds(runs: Sequence[tuple[Components, Mapping[str, float]]]) -> float:
    """Of all runs with their stages, one after another; what several share is counted once."""
    total = 0.0
    done: set[str] = set()
    for parts, stages in runs:
        for stage, seconds in stages.items():
            if stage in SHARED and seconds:
                of = [described(getattr(parts, name)) for name in ("model", "sampler", *SHARED[stage])]
                steps = parts.baseline_steps if stage == "samples_full_precision" else parts.sample.num_steps
                key = json.dumps([stage, of, steps, parts.run_seed])
                if key in done:
                    continue
                done.add(key)
            total += seconds
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan of one run. Exit status: see `cq.cli.commands.ended`; 2 also where the run cannot fit."""
    return ended("cq-plan", lambda: _tell(list(sys.argv[1:] if arguments is None else arguments)))


def _tell(overrides: list[str]) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=overrides)
    parts = Components.of(config)
    for said in unread(config, parts, overrides).values():
        sys.stderr.write(f"cq-plan: {said}\n")
    sys.stdout.write(f"{plan_of(within_budget(parts))}\n")


if __name__ == "__main__":
    sys.exit(main())
