"""Measured wall clock and memory of what is really executed, beside the full-precision model in the same run."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cq.artifacts import Artifact


@dataclass(frozen=True, kw_only=True)
class Timing(Artifact):
    """seconds: what ran to its repeats (s for the whole batch), interleaved; empty where nothing may be timed."""

    batch_size: int
    seconds_this: tuple[float, ...]
    seconds_full: tuple[float, ...]
    peak_mem_mib: float
    device: str
    threads: int

    def summary(self) -> dict[str, Any] | None:
        """Medians: seconds an image, and the ratio to the full model of the same repeats."""
        if not self.seconds_this:
            return None
        ratios = [full / this for full, this in zip(self.seconds_full, self.seconds_this, strict=True)]
        return {
            "seconds_per_image": statistics.median(self.seconds_this) / self.batch_size,
            "speedup": statistics.median(ratios),
            "peak_mem_mib": self.peak_mem_mib,
            "device": self.device,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "repeats": len(ratios),
        }


@dataclass(frozen=True, kw_only=True)
class Latency:
    """repeats interleaved runs of one batch; 0 repeats measure nothing."""

    batch_size: int
    repeats: int

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.repeats < 0:
            raise ValueError(f"latency.batch_size={self.batch_size}, latency.repeats={self.repeats}: at least 1 and 0.")

    def measure(self, runs: Mapping[str, Callable[[int], Iterator[Any]]]) -> Timing:
        """Time `this` and `full` in turns. runs: a function of the batch size to a denoising loop; {} times nothing."""
        import psutil

        process = psutil.Process()
        seconds: dict[str, list[float]] = {"this": [], "full": []}
        peak = 0
        for _ in range(self.repeats if runs else 0):
            for name, loop in runs.items():
                started = time.perf_counter()
                for _step in loop(self.batch_size):
                    if name == "this":
                        peak = max(peak, process.memory_info().rss)
                seconds[name].append(time.perf_counter() - started)
        return Timing(
            batch_size=self.batch_size,
            seconds_this=tuple(seconds["this"]),
            seconds_full=tuple(seconds["full"]),
            peak_mem_mib=peak / 2**20,
            device=f"cpu ({torch.backends.cpu.get_cpu_capability()})",
            threads=torch.get_num_threads(),
        )
