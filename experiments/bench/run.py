"""Time what the README claims about speed and memory; writes results/bench.json. Usage: python experiments/bench/run.py

Every comparison is interleaved within this one run; medians and ratios are reported.
"""

import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import CacheSchedule
from cq.core.denoise import denoise
from cq.core.seeding import initial_noise
from cq.evaluate.efficiency import call_macs
from cq.models.diffusion import DiffusionModel
from cq.run.compose import component
from cq.schedule.optimal import optimal_groups

log = logging.getLogger("bench")
ROOT = Path(__file__).parents[2]
BATCH = 32


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one after the other in every round, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(repeats + 1):
        for name, function in runs.items():
            started = time.perf_counter()
            function()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.no_grad()
def calls(model: DiffusionModel) -> dict[str, float]:
    """Wall time of a cached call over a full one, beside the ratio of their MACs."""
    x_NCHW = initial_noise(tuple(range(BATCH)), model.component.latent_shape)
    cond = model.condition(torch.arange(BATCH) % 10)
    options: dict[str, Any] = {"call": 0, "timestep": torch.tensor(500), "cond": cond}
    features = model.denoiser(x_NCHW, reuse={}, **options).features
    took = interleaved(
        {
            "full": lambda: model.denoiser(x_NCHW, reuse={}, **options),
            "cached": lambda: model.denoiser(x_NCHW, reuse=features, **options),
        },
        repeats=30,
    )
    context = model.condition(torch.zeros(1, dtype=torch.int64))
    full, cached = call_macs(
        model.denoiser.network,
        latent_shape=model.component.latent_shape,
        cond=None if context is None else context[:1],
        sites=model.denoiser.sites,
    )
    return {
        "full_ms": took["full"] * 1e3,
        "cached_ms": took["cached"] * 1e3,
        "seconds_ratio": took["cached"] / took["full"],
        "macs_full": float(sum(full.values())),
        "macs_cached": float(sum(cached.values())),
        "macs_ratio": sum(cached.values()) / sum(full.values()),
    }


@torch.no_grad()
def loop(model: DiffusionModel, num_steps: int = 50, interval: int = 5) -> dict[str, float]:
    """cq's loop over a hand-written one that calls the same modules in the same order."""
    seeds = tuple(range(BATCH))
    cond = model.condition(torch.arange(BATCH) % 10)
    schedule = CacheSchedule(
        num_calls=num_steps, refresh_calls=tuple(range(0, num_steps, interval)), planner="uniform", interval=interval
    )
    network, guidance = model.denoiser.network, model.component.guidance
    assert guidance is not None
    out: dict[str, torch.Tensor] = {}

    def ours() -> None:
        for step in denoise(
            model.denoiser, model.noise_scheduler(num_steps), initial_noise(seeds, model.component.latent_shape),
            cond=cond, acceleration=Acceleration(schedule=schedule),
        ):  # fmt: skip
            out["ours"] = step.x_NCHW

    def by_hand() -> None:
        scheduler = model.noise_scheduler(num_steps)
        x = initial_noise(seeds, model.component.latent_shape)
        held: Any = {}
        for index, timestep in enumerate(scheduler.timesteps):
            doubled = torch.cat([x, x])
            if index % interval == 0:
                eps, held = network.full(doubled, timestep, cond, record=model.denoiser.sites)
            else:
                eps = network.shallow(doubled, timestep, cond, reuse=held)
            null, conditional = eps.chunk(2)
            x = scheduler.step(null + guidance * (conditional - null), timestep, x).prev_sample
        out["by_hand"] = x

    took = interleaved({"ours": ours, "by_hand": by_hand}, repeats=15)
    assert torch.equal(out["ours"], out["by_hand"]), "the two loops must draw the same latents"
    return {"ours_s": took["ours"], "by_hand_s": took["by_hand"], "ratio": took["ours"] / took["by_hand"]}


def dps() -> dict[str, float]:
    """The solver alone, from given distances: T = 1000, N = 20, every number of groups."""
    distance = np.random.default_rng(0).random((1000, 40))
    distance[:, 0] = 0
    for d in range(1, 40):
        distance[:d, d] = np.inf
    took = interleaved({"dps": lambda: optimal_groups(distance, min_group=10, max_group=40)}, repeats=10)
    return {"seconds": took["dps"]}


def calibration_memory(num_steps: int) -> float:
    """Peak resident MiB of a process that calibrates `num_steps` calls."""
    done = subprocess.run(
        [sys.executable, __file__, "calibrate", str(num_steps)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _calibrate(num_steps: int) -> None:
    from cq.calibrate.trajectory import collect_statistics

    model = _model()
    steps = denoise(
        model.denoiser, model.noise_scheduler(num_steps),
        initial_noise(tuple(range(BATCH)), model.component.latent_shape),
        cond=model.condition(torch.arange(BATCH) % 10), acceleration=Acceleration(schedule=every_call(num_steps)),
    )  # fmt: skip
    collect_statistics(
        [steps], phases=((0, model.denoiser.sites),), noise_scheduler=model.noise_scheduler(num_steps), window=39
    )
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}\n")


def _model() -> DiffusionModel:
    model: DiffusionModel = component("model=ldm_mini").load()
    return model


def main() -> None:
    if sys.argv[1:2] == ["calibrate"]:
        _calibrate(int(sys.argv[2]))
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    model = _model()
    results: dict[str, Any] = {
        "device": f"cpu ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "batch_size": BATCH,
    }
    results["calls"] = calls(model)
    log.info("calls: %s", results["calls"])
    results["loop"] = loop(model)
    log.info("loop: %s", results["loop"])
    results["dps_1000_20"] = dps()
    log.info("DPS, T=1000, N=20: %s", results["dps_1000_20"])
    results["calibration_peak_mib"] = {str(steps): calibration_memory(steps) for steps in (50, 100, 250)}
    log.info("calibration peak MiB by number of calls: %s", results["calibration_peak_mib"])
    (ROOT / "results/bench.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
