"""What does calibration in less memory cost? Usage: python experiments/memory/run.py [model] [options]

Statistics from all of each map, and from a part of it by several methods and sizes, each collected in a process of its
own. Writes results/memory_<model>.json and the figure beside results' other figures. Schedules are planned on
calibration seeds and judged on tuning seeds, so that no table's images are touched.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cq.calibrate.loops import Loops
from cq.calibrate.reduced import ReducedCalibrate
from cq.calibrate.trajectory import Calibrate, collect_statistics
from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import CacheSchedule, TrajectoryStatistics
from cq.core.contracts import PlanRequest
from cq.core.denoise import DenoiseStep, denoise
from cq.core.seeding import image_seeds, initial_noise
from cq.cost.l1 import L1
from cq.evaluate.fidelity import relative_error
from cq.models.diffusion import DiffusionModel
from cq.run.compose import component
from cq.run.origin import Source
from cq.schedule.dps import DPS
from cq.schedule.optimal import group_costs
from cq.schedule.uniform import Uniform

log = logging.getLogger("memory")
ROOT = Path(__file__).parents[2]
INTERVALS = (5, 10, 20)
LOOP, EXACT = "loop", "exact"  # the denoising loop alone, which keeps no map; all of each map
MIB = 2**20


@dataclass(frozen=True)
class Collection:
    """How maps are kept: method `loop`, `exact`, `positions` or `pooling`; keep: positions of a map, 0 for all."""

    method: str
    keep: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.keep}" if self.keep else self.method


@dataclass(frozen=True)
class Sizes:
    """steps of the sampler, calibration trajectories in one batch, and images that judge a schedule."""

    steps: int
    samples: int
    images: int

    @property
    def calibrate(self) -> Calibrate:
        return Calibrate(num_samples=self.samples, batch_size=self.samples, max_interval=max(INTERVALS))


def load(name: str) -> DiffusionModel:
    model: DiffusionModel = component(f"model={name}").load()
    return replace(model, sampler=component("sampler=ddim"))


def collect(model: DiffusionModel, collection: Collection, sizes: Sizes, folder: Path | None) -> dict[str, Any]:
    """Run one collection in this process and say what it took; the statistics go to `folder`.

    peak_mib: the largest resident size of this process so far, everything in it (ru_maxrss). kept_bytes: of the maps in
    a full ring, counted.
    """
    batches = trajectories(model, sizes)
    kept = 0
    started = time.monotonic()
    if collection.method == LOOP:
        for steps in batches:
            for _ in steps:
                pass
    else:
        calibrate = sizes.calibrate
        if collection.method != EXACT:
            calibrate = ReducedCalibrate(**asdict(calibrate), keep=collection.keep, method=collection.method)  # type: ignore[arg-type]

        def reduce(x_NCX: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            part = calibrate.reduce(x_NCX)
            kept = part.numel() * part.element_size() * min(calibrate.window, num_calls - 1)
            return part

        num_calls = len(model.noise_scheduler(sizes.steps).timesteps)
        statistics = collect_statistics(
            batches, phases=((0, model.denoiser.sites),), noise_scheduler=model.noise_scheduler(sizes.steps),
            window=calibrate.window, reduce=reduce,
        )  # fmt: skip
        assert folder is not None
        statistics.save(folder)
        kept *= len(model.denoiser.sites)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak_mib": peak / MIB, "kept_bytes": kept, "seconds": time.monotonic() - started}


def trajectories(model: DiffusionModel, sizes: Sizes) -> Iterable[Iterator[DenoiseStep]]:
    loops = Loops(model=model, num_steps=sizes.steps, run_seed=0)
    return loops.full(model.denoiser, sizes.samples, sizes.samples)


def collected(name: str, collection: Collection, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`collect` in a process of its own, which nothing has grown before."""
    order = {"model": name, "collection": asdict(collection), "sizes": asdict(sizes), "folder": str(folder)}
    done = subprocess.run(
        [sys.executable, __file__, "--collect", json.dumps(order)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{collection.name}: collecting statistics failed.\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def distance_error(statistics: TrajectoryStatistics, exact: TrajectoryStatistics) -> float:
    """Relative error of the L1 distances, in the Frobenius norm, after the one factor that a schedule cannot see."""
    real = torch.isfinite(exact.l1_TD)
    theirs, ours = exact.l1_TD[real], statistics.l1_TD[real]
    return float((ours * (theirs.sum() / ours.sum()) - theirs).norm() / theirs.norm())


def plan(statistics: TrajectoryStatistics, interval: int) -> CacheSchedule:
    dps = DPS(interval=interval, num_groups=None, min_group=None, max_group=None)
    return dps.plan(PlanRequest(num_calls=statistics.num_calls, cost=L1(), statistics=statistics))


def true_cost(schedule: CacheSchedule, exact: TrajectoryStatistics, interval: int) -> float:
    """Sum over the calls of the exact L1 distance to the map that they stand on."""
    ends = (*schedule.refresh_calls[1:], schedule.num_calls)
    lengths = [end - start for start, end in zip(schedule.refresh_calls, ends, strict=True)]
    costs = group_costs(L1().distances(exact).numpy(), max_group=min(2 * interval, exact.l1_TD.shape[1]))
    return float(np.sum([costs[start, n] for start, n in zip(schedule.refresh_calls, lengths, strict=True)]))


class Judge:
    """Errors of schedules on tuning seeds; each schedule is run once."""

    def __init__(self, model: DiffusionModel, sizes: Sizes) -> None:
        self._model, self._sizes = model, sizes
        self._full = self._latents(every_call(len(model.noise_scheduler(sizes.steps).timesteps)))
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def errors(self, schedule: CacheSchedule) -> torch.Tensor:
        """Relative error of the final latents of each image, float64 [N]."""
        if schedule.refresh_calls not in self._known:
            self._known[schedule.refresh_calls] = relative_error(self._latents(schedule), self._full).double()
        return self._known[schedule.refresh_calls]

    def _latents(self, schedule: CacheSchedule) -> torch.Tensor:
        model, seeds = self._model, image_seeds("tuning", run_seed=0, count=self._sizes.images)
        labels = torch.arange(len(seeds)) % max(1, model.component.num_classes)
        noise = initial_noise(seeds, model.component.latent_shape)
        *_, last = denoise(
            model.denoiser, model.noise_scheduler(self._sizes.steps), noise, cond=model.condition(labels),
            acceleration=Acceleration(schedule=schedule),
        )  # fmt: skip
        return last.x_NCHW


def mean(values: torch.Tensor) -> tuple[float, float]:
    """Mean over images and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def compare(name: str, collections: list[Collection], sizes: Sizes, repeats: int) -> dict[str, Any]:
    """For each collection what it took and, for each interval, how good the schedule is that follows from it."""
    # All measurements before this process loads anything: a process may inherit the peak of the one that started it.
    took: dict[str, list[dict[str, Any]]] = {}
    statistics: dict[str, TrajectoryStatistics] = {}
    for repeat in range(repeats):
        for collection in collections:
            with tempfile.TemporaryDirectory() as folder:
                took.setdefault(collection.name, []).append(collected(name, collection, sizes, Path(folder)))
                if not repeat and collection.method != LOOP:
                    statistics[collection.name] = TrajectoryStatistics.load(Path(folder))
            log.info("%s, repeat %d: %s", collection.name, repeat, took[collection.name][-1])
    exact = statistics[EXACT]
    judge = Judge(load(name), sizes)
    best = {interval: plan(exact, interval) for interval in INTERVALS}
    loop = np.array([found["peak_mib"] for found in took[LOOP]])
    rows = []
    for collection in collections:
        found = took[collection.name]
        added = np.array([run["peak_mib"] for run in found]) - loop.mean()
        row: dict[str, Any] = {
            **asdict(collection), "kept_bytes": found[0]["kept_bytes"],
            "peak_mib": [run["peak_mib"] for run in found], "seconds": [run["seconds"] for run in found],
            "added_mib": float(added.mean()), "added_mib_low": float(added.min()), "added_mib_high": float(added.max()),
        }  # fmt: skip
        if collection.method != LOOP:
            ours = statistics[collection.name]
            row["distance_error"] = distance_error(ours, exact)
            row["schedules"] = {
                str(n): judged(plan(ours, n), best[n], exact, judge, n) for n in INTERVALS
            }  # fmt: skip
            log.info("%s: %s", collection.name, row)
        rows.append(row)
    uniform = {
        n: Uniform(interval=n).plan(PlanRequest(num_calls=exact.num_calls, cost=L1(), statistics=exact))
        for n in INTERVALS
    }
    return {
        "collections": rows,
        "uniform": {str(n): judged(uniform[n], best[n], exact, judge, n) for n in INTERVALS},
    }


def judged(
    schedule: CacheSchedule, best: CacheSchedule, exact: TrajectoryStatistics, judge: Judge, interval: int
) -> dict[str, Any]:
    error, best_error = judge.errors(schedule), judge.errors(best)
    difference, spread = mean(error - best_error)
    return {
        "refresh_calls": list(schedule.refresh_calls),
        "same_schedule": schedule.refresh_calls == best.refresh_calls,
        "true_cost_over_optimum": true_cost(schedule, exact, interval) / true_cost(best, exact, interval),
        "error": mean(error)[0], "error_standard_error": mean(error)[1],
        "difference_to_exact": difference, "difference_standard_error": spread,
    }  # fmt: skip


def draw(results: dict[str, Any], path: Path) -> None:
    """Memory, distances, cost and error against the bytes of the maps that are kept."""
    from cq.report.looks import PALETTE, new_figure, save_png, style, wrapped

    rows = [row for row in results["collections"] if row["method"] != LOOP]
    (whole,) = [row for row in rows if row["method"] == EXACT]
    lines = {
        method: sorted([row for row in rows if row["method"] == method] + [whole], key=lambda row: row["kept_bytes"])
        for method in ("positions", "pooling")
    }
    looks = {"positions": (PALETTE[1], "o", "-"), "pooling": (PALETTE[2], "s", (0, (4, 1.6)))}
    with style():
        figure = new_figure(11.5, 6.6)
        grid: Any = figure.subplots(2, 1 + len(INTERVALS), squeeze=False, sharex=True)
        for method, line in lines.items():
            colour, marker, dash = looks[method]
            options: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4.5}
            x = [row["kept_bytes"] / MIB for row in line]
            added = [row["added_mib"] for row in line]
            spread = [[row["added_mib"] - row["added_mib_low"] for row in line]]
            spread += [[row["added_mib_high"] - row["added_mib"] for row in line]]
            grid[0, 0].errorbar(x, added, yerr=spread, label=method, elinewidth=0.9, linewidth=1.3, **options)
            grid[1, 0].plot(x, [100 * row["distance_error"] for row in line], linewidth=1.3, **options)
            for axes_2, n in zip(grid[:, 1:].T, INTERVALS, strict=True):
                found = [row["schedules"][str(n)] for row in line]
                cost = [100 * (one["true_cost_over_optimum"] - 1) for one in found]
                axes_2[0].plot(x, cost, linewidth=1.3, **options)
                bars = [one["difference_standard_error"] for one in found]
                error = [one["difference_to_exact"] for one in found]
                axes_2[1].errorbar(x, error, yerr=bars, elinewidth=0.9, linewidth=1.3, **options)
        kept = np.array([row["kept_bytes"] for row in rows]) / MIB
        grid[0, 0].plot(np.sort(kept), np.sort(kept), color="#999999", linewidth=1, label="the maps kept, counted")
        for axes in grid.flat:
            axes.plot([whole["kept_bytes"] / MIB], _exact_at(axes, whole), "D", color="black", markersize=5, zorder=4)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.grid(color="#E5E5E5", linewidth=0.7)
            axes.set_axisbelow(True)
        for axes in grid[1]:
            axes.set_xlabel("MiB of maps kept (counted)")
        grid[0, 0].set_ylabel("peak over the loop alone,\nMiB (measured)")
        grid[1, 0].set_ylabel("relative error of the distances, %")
        grid[0, 1].set_ylabel("true cost above the optimum, %")
        grid[1, 1].set_ylabel(wrapped("latent error less that of the exact schedule (bars: standard error)", 36))
        for axes, n in zip(grid[0, 1:], INTERVALS, strict=True):
            axes.set_title(f"N = {n}")
            at_least(axes, 1.0)
            uniform = results["uniform"][str(n)]
            axes.text(
                0.97, 0.95, f"uniform: {100 * (uniform['true_cost_over_optimum'] - 1):+.1f} %",
                transform=axes.transAxes, ha="right", va="top", fontsize=8,
            )  # fmt: skip
        for axes, n in zip(grid[1, 1:], INTERVALS, strict=True):
            uniform, exact = results["uniform"][str(n)], whole["schedules"][str(n)]
            axes.axhline(0, color="black", linewidth=0.8)
            axes.text(
                0.97, 0.95, f"exact: {exact['error']:.3f}, uniform: {uniform['difference_to_exact']:+.3f}",
                transform=axes.transAxes, ha="right", va="top", fontsize=8,
            )  # fmt: skip
            at_least(axes, 0.004)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        handles.append(grid[0, 0].lines[-1])
        figure.legend(handles, [*labels, "all of each map"], loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(
            f"{results['model']}: schedules from a part of each map ({results['steps']} steps, {results['samples']} "
            f"trajectories, {results['images']} images)", x=0.01, ha="left", fontweight="bold",
        )  # fmt: skip
        save_png(figure, path.with_suffix(".png"))


def at_least(axes: Any, span: float) -> None:
    """Widen the vertical axis around zero and what is drawn, so that rounding does not look like a difference."""
    low, high = axes.get_ylim()
    low, high = min(low, -0.1 * span), max(high, 0.9 * span)
    axes.set_ylim(low, high + 0.2 * (high - low))


def _exact_at(axes: Any, whole: dict[str, Any]) -> list[float]:
    """Where the exact collection stands on the axes: its own memory on the first, zero on all others."""
    first = axes is axes.figure.axes[0]
    return [whole["added_mib"] if first else 0.0]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of calibration against the quality of its schedules.")
    parser.add_argument("model", nargs="?", default="ldm_mini")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=64, help="calibration trajectories")
    parser.add_argument("--images", type=int, default=64, help="tuning images that judge a schedule")
    parser.add_argument("--keep", type=int, nargs="+", default=[32, 16, 8, 4, 2, 1], help="positions of a map")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each peak")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    parser.add_argument("--collect", help=argparse.SUPPRESS)  # what a process of its own is asked to do
    options = parser.parse_args()
    if options.collect:
        order = json.loads(options.collect)
        collection, sizes = Collection(**order["collection"]), Sizes(**order["sizes"])
        print(json.dumps(collect(load(order["model"]), collection, sizes, Path(order["folder"]))))
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    file = options.out / f"memory_{options.model}.json"
    if not options.draw:
        started = time.monotonic()
        sizes = Sizes(steps=options.steps, samples=options.samples, images=options.images)
        parts = [Collection(method, keep) for method in ("positions", "pooling") for keep in options.keep]
        source = Source.now()
        weights = component(f"model={options.model}").weights_digest()
        results = {
            "model": options.model, "weights_digest": weights, **asdict(sizes),
            "commit": source.commit, "clean_tree": source.clean, "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "measured": "peak_mib: ru_maxrss of a process that loads the model and collects once; added_mib: that less "
            "the mean of processes that only run the loop",
            "counted": "kept_bytes: the maps of a full ring",
            **compare(options.model, [Collection(LOOP, 0), Collection(EXACT, 0), *parts], sizes, options.repeats),
        }  # fmt: skip
        results["total_seconds"] = round(time.monotonic() - started)
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "figures").mkdir(exist_ok=True)
    draw(json.loads(file.read_text()), options.out / f"figures/memory_{options.model}")


if __name__ == "__main__":
    main()
