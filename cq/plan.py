"""What a run will cost, from a few timed calls of its own model, before it starts."""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from cq.components import Components
from cq.quantize.reconstruct import Reconstruct

FAKE_QUANT_FACTOR = 2.0  # a fake-quantized call over a full-precision one; an allowance, replaced by no measurement
OBSERVING_FACTOR = 6.0  # a call that also gathers a histogram of every layer's input
PAIRS_FACTOR = 2.0  # a call that is also compared with the maps before it
EVALUATION_SECONDS = 12.0


@dataclass(frozen=True)
class CallSeconds:
    """Seconds a call and image (guidance included), full precision, median of a few at the sampling batch.

    units: the network's parts, for what works on one after another.
    """

    full: float
    cached: float
    units: int


@torch.no_grad()
def time_calls(parts: Components, repeats: int = 3) -> CallSeconds:
    """Run a full and a cached call a few times at the run's own batch size (at most 64)."""
    model = parts.model.load()
    batch = min(64, parts.sample.batch_size)
    x_NCHW = torch.randn(batch, *parts.model.latent_shape, generator=torch.Generator().manual_seed(0))
    cond = model.condition(torch.zeros(batch, dtype=torch.int64))
    options: dict[str, Any] = {"call": 0, "timestep": torch.tensor(500), "cond": cond}
    features = model.denoiser(x_NCHW, reuse={}, **options).features
    seconds: dict[str, list[float]] = {"full": [], "cached": []}
    for _ in range(repeats):
        for name, reuse in (("full", {}), ("cached", features)):
            started = time.perf_counter()
            model.denoiser(x_NCHW, reuse=reuse, **options)
            seconds[name].append((time.perf_counter() - started) / batch)
    return CallSeconds(
        full=statistics.median(seconds["full"]), cached=statistics.median(seconds["cached"]),
        units=len(model.denoiser.network.units()),
    )  # fmt: skip


def estimate_seconds(
    parts: Components, calls: CallSeconds, *, interval: int | None, quantized: bool
) -> dict[str, float]:
    """Seconds by stage, as if nothing were in the store; interval None for an uncached run."""
    total = parts.sampler.num_calls(parts.sample.num_steps)
    refreshes = total if interval is None else math.ceil(total / interval)
    deployed = refreshes * calls.full + (total - refreshes) * calls.cached
    factor = FAKE_QUANT_FACTOR if quantized else 1.0
    calibration = parts.calibrate.num_samples * total * calls.full * PAIRS_FACTOR
    cached_and_fitted = interval is not None
    quantization = parts.quantizer.num_samples * deployed * (OBSERVING_FACTOR + 2)
    if isinstance(parts.quantizer, Reconstruct):
        image_calls = parts.quantizer.image_calls(calls.units, 1 if parts.model.guidance is None else 2)
        quantization += image_calls * calls.full * FAKE_QUANT_FACTOR
    return {
        "statistics": calibration if cached_and_fitted else 0.0,
        "quant_params": quantization if quantized else 0.0,
        "samples_full_precision": parts.sample.num_images * total * calls.full,
        "samples": parts.sample.num_images * deployed * factor if cached_and_fitted or quantized else 0.0,
        "timing": 0.0
        if quantized
        else parts.latency.repeats * parts.latency.batch_size * (deployed + total * calls.full),
        "evaluation": EVALUATION_SECONDS,
    }


SHARED = ("statistics", "samples_full_precision")  # stages that the runs of one model, step count and seed share
