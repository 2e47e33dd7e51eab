"""What a run will cost, from a few timed calls of its own model, before it starts.

`cq-plan experiment=table5/cache_dps` says it for any overrides that `cq` takes, and starts nothing.
"""

import json
import logging
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
from cq.models.diffusion import DiffusionModel
from cq.quantize.observers import MinMax
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
from cq.run.stages.sketches import Sketches
from cq.run.stages.statistics import Statistics
from cq.run.unread import unread

BATCH = 64  # calls are timed at the sampling batch, but at most this,
LONGEST = 10.0  # and at most as many images as a call of one suggests to take these seconds,
SLOW = 1.0  # and one image where it takes longer than this

log = logging.getLogger(__name__)


@torch.no_grad()
def time_calls(
    parts: Components, quantizer: Quantizer | None = None, *, model: DiffusionModel | None = None, repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> CallSeconds:  # fmt: skip
    """Run each kind of call a few times on the run's own model, at its own batch size or as many images as are quick.

    Where a call of one image takes more than SLOW seconds each kind is run once, with one image, and an image is taken
    to cost the same in any batch. quantizer: of the first quantized run, if there is one; of it the choice of ranges is
    timed. model: theirs, where it has been loaded and called.
    """
    loaded = model or parts.model.load().on(device(), getattr(torch, parts.dtype))
    full_precision = loaded.denoiser.with_sites((parts.model.site,))

    def inputs(count: int) -> tuple[Tensor, dict[str, Any]]:
        noise_NCHW = torch.randn(count, *parts.model.latent_shape, generator=torch.Generator().manual_seed(0))
        cond = loaded.condition(torch.zeros(count, dtype=torch.int64, device=loaded.device))
        return noise_NCHW.to(loaded.device), {"call": 0, "timestep": torch.tensor(500), "cond": cond}

    def timed(
        kind: str, count: int, times: int, denoiser: GuidedDenoiser = full_precision, reuse: Mapping[str, Tensor] = {}
    ) -> tuple[float, Mapping[str, Tensor]]:
        """Seconds an image, and the maps."""
        x_NCHW, options = inputs(count)
        seconds = []
        for _ in range(times):
            started = clock()
            out = denoiser(x_NCHW, reuse=reuse, **options)
            _finish(loaded.device)
            seconds.append((clock() - started) / count)
        log.info("timed %s: %.3g s an image, batch %d", kind, statistics.median(seconds), count)
        return statistics.median(seconds), out.features

    if model is None:
        timed("the first call, which is not counted", 1, 1)
    network, one = full_precision.network, []
    sizes = unit_bytes(network, network.units(), lambda: one.append(timed("a full call", 1, 1)))
    [(full, maps)], batch, small = one, 1, 1.0
    if full > SLOW:
        repeats = 1
    else:
        batch = max(1, min(BATCH, parts.sample.batch_size, int(LONGEST / full)))
        timed("the first call of the batch, which is not counted", batch, 1)
        full, maps = timed("a full call", batch, repeats)
        if parts.latency.repeats > 0:
            small = timed("a full call", parts.latency.batch_size, repeats)[0] / full
    found = CallSeconds(
        full=full, cached=timed("a cached call", batch, repeats, reuse=maps)[0], small=small, units=len(sizes),
        unit_bytes=sum(returned for _, returned in sizes.values()),
    )  # fmt: skip
    if quantizer is None:
        return found
    x_NCHW, options = inputs(batch)
    marks: list[float] = []

    def one_call(denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
        marks.append(clock())
        denoiser(x_NCHW, reuse={}, **options)
        marks.append(clock())
        yield 0  # the quantizer chooses the ranges of this call before it asks for the next one
        marks.append(clock())

    ranges: Any = quantizer.ranges
    if hasattr(ranges, "weight_observer"):  # how weights are rounded changes no call, and a search takes minutes
        ranges = replace(ranges, weight_observer=MinMax())
    params = ranges.calibrate(full_precision, one_call, num_calls=1, shards=Path())
    log.info("timed the choice of the ranges of a call: %.3g s", marks[2] - marks[1])
    twin = fake_quantized(full_precision, params)
    return replace(
        found, twin=timed("a full call, fake-quantized", batch, repeats, twin)[0],
        observed=(marks[1] - marks[0]) / batch, search=marks[2] - marks[1],
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
    calls = time_calls(parts, parts.quantizer if parts.quantized else None, model=run.model, clock=clock)
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
    for known in (Statistics, Sketches):
        if stage == known.name:
            return str(known(run).folder(run.unaccelerated))
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
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
