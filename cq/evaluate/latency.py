"""Measured wall clock and memory of what is really executed, beside the full-precision model in the same run."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from cq.core.artifacts import Artifact
from cq.core.values import Batch, Within


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

    batch_size: Batch
    repeats: Annotated[int, Within(0, 1000, "3")]

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.repeats < 0:
            raise ValueError(f"latency.batch_size={self.batch_size}, latency.repeats={self.repeats}: at least 1 and 0.")

    def measure(self, runs: Mapping[str, Callable[[int], Iterator[Any]]]) -> Timing:
        """Time `this` and `full` in turns, after one run of each that is not counted (a compiler's, a GPU's first).

        runs: a function of the batch size to a denoising loop (of `DenoiseStep`); {} times nothing. peak_mem_mib: the
        largest resident memory of the process while `this` ran; on a GPU the most that was allocated on it.
        """
        device = torch.device("cpu")
        seconds: dict[str, list[float]] = {"this": [], "full": []}
        peak = 0
        for repeat in range(self.repeats + 1 if runs and self.repeats else 0):
            for name, loop in runs.items():
                memory = _Memory(device)
                started = time.perf_counter()
                for step in loop(self.batch_size):
                    device = step.x_NCHW.device
                    memory.look()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)  # or the last kernels would not be counted
                elapsed = time.perf_counter() - started
                if repeat:
                    seconds[name].append(elapsed)
                    peak = max(peak, memory.peak()) if name == "this" else peak
        on_cpu = device.type == "cpu"
        name = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(device)
        return Timing(
            batch_size=self.batch_size,
            seconds_this=tuple(seconds["this"]),
            seconds_full=tuple(seconds["full"]),
            peak_mem_mib=peak / 2**20,
            device=f"{device.type} ({name})",
            threads=torch.get_num_threads(),
        )


class _Memory:
    """The peak of one loop's memory, where its network runs; the device is known from the second loop on."""

    def __init__(self, device: torch.device) -> None:
        import psutil

        self._device, self._process, self._resident = device, psutil.Process(), 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Called after every step; a GPU keeps count by itself."""
        if self._device.type != "cuda":
            self._resident = max(self._resident, self._process.memory_info().rss)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else self._resident
