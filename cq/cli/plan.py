"""What a run will cost, from a few timed calls of its own model, before it starts.

`cq-plan experiment=table5/cache_dps` says it for any overrides that `cq` takes, and starts nothing.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.cli.commands import REFUSED, ended, helped
from cq.core.contracts import Quantizer
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.core.processes import device
from cq.quantize.passes import unit_bytes
from cq.quantize.twin import fake_quantized
from cq.run.components import Components
from cq.run.compose import composed, composing
from cq.run.context import Run
from cq.run.costs import GIB, CallSeconds
from cq.run.identity import described
from cq.run.memory import call_bytes, peak_bytes, within_budget
from cq.run.own import allowing
from cq.run.pipeline import STEPS
from cq.run.stages.samples import Baseline
from cq.run.stages.statistics import Statistics
from cq.run.unread import unread

BATCH = 64  # calls are timed at the sampling batch, but at most this,
LONGEST = 10.0  # and at most as many images as a call of one suggests to take these seconds


@torch.no_grad()
def time_calls(
    parts: Components, quantizer: Quantizer | None = None, *, repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> CallSeconds:  # fmt: skip
    """Run each kind of call a few times on the run's own model at its own batch size.

    quantizer: of the first quantized run, if there is one; of it the choice of ranges is timed.
    """
    model = parts.model.load().on(device(), getattr(torch, parts.dtype))

    def inputs(count: int) -> tuple[Tensor, dict[str, Any]]:
        noise_NCHW = torch.randn(count, *parts.model.latent_shape, generator=torch.Generator().manual_seed(0))
        cond = model.condition(torch.zeros(count, dtype=torch.int64, device=model.device))
        return noise_NCHW.to(model.device), {"call": 0, "timestep": torch.tensor(500), "cond": cond}

    def median(denoiser: GuidedDenoiser, reuse: Mapping[str, Tensor], count: int, times: int = repeats) -> float:
        x_NCHW, options = inputs(count)
        seconds = []
        for _ in range(times):
            started = clock()
            denoiser(x_NCHW, reuse=reuse, **options)
            _finish(model.device)
            seconds.append((clock() - started) / count)
        return statistics.median(seconds)

    batch = max(1, min(BATCH, parts.sample.batch_size, int(LONGEST / median(model.denoiser, {}, 1, times=1))))
    x_NCHW, options = inputs(batch)
    features = model.denoiser(x_NCHW, reuse={}, **options).features
    full = median(model.denoiser, {}, batch)
    timed = parts.latency.repeats > 0
    units = model.denoiser.network.units()
    sizes = unit_bytes(model.denoiser.network, units, lambda: model.denoiser(x_NCHW, reuse={}, **options))
    returned = sum(size for _, size in sizes.values())
    found = CallSeconds(
        full=full, cached=median(model.denoiser, features, batch), units=len(units), unit_bytes=returned // batch,
        small=median(model.denoiser, {}, parts.latency.batch_size) / full if timed else 1.0,
    )  # fmt: skip
    if quantizer is None:
        return found
    marks: list[float] = []

    def one_call(denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
        marks.append(clock())
        denoiser(x_NCHW, reuse={}, **options)
        marks.append(clock())
        yield 0  # the quantizer chooses the ranges of this call before it asks for the next one
        marks.append(clock())

    params = quantizer.ranges.calibrate(model.denoiser, one_call, num_calls=1, shards=Path())
    twin = fake_quantized(model.denoiser, params)
    return replace(
        found, twin=median(twin, {}, batch), observed=(marks[1] - marks[0]) / batch, search=marks[2] - marks[1]
    )  # fmt: skip


def estimate_seconds(parts: Components, calls: CallSeconds) -> dict[str, float]:
    """Seconds by step, as if nothing were in the store."""
    run = Run(parts)
    return {step.name: step.seconds(calls) if step.needed else 0.0 for step in (make(run) for make in STEPS)}


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
    run = Run(parts)
    memory = peak_bytes(run, call_bytes(parts, run.model))
    calls = time_calls(parts, parts.quantizer if parts.quantized else None, clock=clock)
    return Plan(
        images=parts.sample.num_images, network_calls=parts.sampler.num_calls(parts.sample.num_steps),
        seconds=estimate_seconds(parts, calls), memory=memory,
        disk=parts.disk_bytes,
    )  # fmt: skip


# Stages that runs share, and what of theirs must agree for that, beside model, sampler, step count and seed.
SHARED = {step.name: step.decided_by for step in STEPS if step.decided_by}


def unshared(runs: Sequence[tuple[Run, Mapping[str, float]]]) -> list[dict[str, float]]:
    """The stages of each run, one after another, with their seconds, less those that one before it makes."""
    own: list[dict[str, float]] = []
    done: set[str] = set()
    for run, stages in runs:
        keys = {stage: _shared(run, stage) for stage, seconds in stages.items() if seconds}
        own.append({stage: stages[stage] for stage, key in keys.items() if not key or key not in done})
        done |= set(keys.values())
    return own


def _shared(run: Run, stage: str) -> str:
    """Equal in two runs that share the stage; "" for what no two runs share."""
    parts = run.parts
    if stage == Statistics.name:
        return str(Statistics(run).folder(run.unaccelerated))
    if stage == Baseline.name:
        return str(Baseline(run).folder(Baseline(run).unaccelerated))
    if stage not in SHARED:
        return ""
    of = [_part(parts, name) for name in ("model", "sampler", *SHARED[stage])]
    return json.dumps([stage, of, parts.sample.num_steps, parts.run_seed])


def _part(parts: Components, name: str) -> Any:
    part = getattr(parts, name)
    return described(part) if is_dataclass(part) else part


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan of one run. Exit status: see `cq.cli.commands.ended`; 2 also where the run cannot fit."""
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if helped(overrides, __doc__):
        return 0
    if any(override.startswith("-") for override in overrides):  # it takes no other option
        sys.stderr.write(f"usage: {__doc__}")
        return REFUSED
    return ended("cq-plan", lambda: _tell(overrides))


def _tell(overrides: list[str]) -> None:
    overrides = allowing(overrides)
    with composing():
        config, _ = composed(overrides)
    parts = Components.of(config)
    for said in unread(config, parts, overrides).values():
        sys.stderr.write(f"cq-plan: {said}\n")
    sys.stdout.write(f"{plan_of(within_budget(parts))}\n")


if __name__ == "__main__":
    sys.exit(main())
