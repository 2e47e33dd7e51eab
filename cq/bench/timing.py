"""Seconds of every call of short trajectories, drawn by the project's own loop, in rounds over all ways."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cq.bench.subject import Subject
from cq.bench.ways import Ready
from cq.core.acceleration import Acceleration
from cq.core.denoise import denoise
from cq.core.denoiser import Denoiser, DenoiserOutput

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one way: every full call, every cached call, and each whole trajectory, in the order they ran."""

    full: tuple[float, ...]
    cached: tuple[float, ...]
    trajectory: tuple[float, ...]

    def composed(self, num_calls: int, refreshes: int) -> float:
        """A trajectory of that many calls from the medians: its calls, and what the loop adds to each of them."""
        return self._of(num_calls, refreshes, statistics.median)

    def bounds(self, num_calls: int, refreshes: int) -> tuple[float, float]:
        """The same from the fastest calls, and from the slowest."""
        return self._of(num_calls, refreshes, min), self._of(num_calls, refreshes, max)

    def _of(self, num_calls: int, refreshes: int, pick: Callable[[Sequence[float]], float]) -> float:
        beside = max(0.0, sum(self.trajectory) - sum(self.full) - sum(self.cached))
        per_call = beside / (len(self.full) + len(self.cached))
        return refreshes * pick(self.full) + (num_calls - refreshes) * pick(self.cached) + num_calls * per_call


@dataclass
class _Watched:
    """A denoiser whose calls are timed."""

    denoiser: Denoiser
    clock: Clock
    full: list[float]
    cached: list[float]

    @property
    def sites(self) -> tuple[str, ...]:
        return self.denoiser.sites

    def __call__(self, x_NCHW: Tensor, *, reuse: Mapping[str, Tensor], **given: Any) -> DenoiserOutput:
        started = self.clock()
        out = self.denoiser(x_NCHW, reuse=reuse, **given)
        (self.cached if reuse else self.full).append(self.clock() - started)
        return out


def interleaved(
    ways: Mapping[str, Ready], subject: Subject, *, steps: int, rounds: Mapping[str, int],
    said: Callable[[str], object], clock: Clock = time.perf_counter,
) -> dict[str, Seconds]:  # fmt: skip
    """Seconds by way, after one trajectory of each that is not counted; the subject itself has run already.

    rounds: of each way; few for what is slow. said: is told what was timed.
    """
    found: dict[str, list[tuple[_Watched, float]]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()  # a collection in the middle of a call would be that call's
    try:
        for round_ in range(max(rounds.values()) + 1):
            for name, way in ways.items():
                if round_ > rounds[name] or (not round_ and way.denoiser is subject.denoiser):
                    continue  # its maps were asked for, so the subject itself has run
                watched = _Watched(way.denoiser, clock, [], [])
                started = clock()
                draw(watched, subject, way.acceleration, steps=steps)
                took = clock() - started
                if round_:
                    found[name].append((watched, took))
                said(f"{name}, {f'round {round_}' if round_ else 'warm-up'}: {took:.2f} s a trajectory")
    finally:
        gc.enable()
    return {
        name: Seconds(
            full=tuple(seconds for watched, _ in each for seconds in watched.full),
            cached=tuple(seconds for watched, _ in each for seconds in watched.cached),
            trajectory=tuple(took for _, took in each),
        )
        for name, each in found.items()
    }  # fmt: skip


def draw(denoiser: Denoiser, subject: Subject, acceleration: Acceleration, *, steps: int) -> Tensor:
    """The final state of one trajectory."""
    x_NCHW = subject.x_NCHW
    for step in denoise(denoiser, subject.scheduler(steps), x_NCHW, cond=subject.cond, acceleration=acceleration):
        x_NCHW = step.x_NCHW
    return x_NCHW
