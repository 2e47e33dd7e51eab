"""Is the planned schedule better than chance? Usage: python experiments/random_schedules/run.py [model] [num_random]

Caching only, full precision, the same images for every schedule. Writes results/random_schedules_<model>.json and the
figure beside results' other figures. Schedules are planned on calibration seeds and judged on tuning seeds, so that no
table's images are touched.
"""

import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import wilcoxon

from cq.calibrate.loops import Loops
from cq.calibrate.trajectory import collect_statistics
from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import CacheSchedule, TrajectoryStatistics
from cq.core.contracts import PlanRequest
from cq.core.denoise import denoise
from cq.core.seeding import image_seeds, initial_noise
from cq.cost.l1 import L1
from cq.cost.residual import Residual
from cq.cost.weighted import Weighted
from cq.evaluate.fidelity import relative_error
from cq.models.diffusion import DiffusionModel
from cq.run.compose import component
from cq.run.origin import Source
from cq.schedule.dps import DPS
from cq.schedule.power import Power
from cq.schedule.random_groups import RandomGroups
from cq.schedule.threshold import Threshold
from cq.schedule.uniform import Uniform

log = logging.getLogger("random_schedules")
ROOT = Path(__file__).parents[2]
STEPS, INTERVALS, IMAGES, CALIBRATION = 100, (5, 10, 20), 64, 64


def planned(statistics: TrajectoryStatistics, interval: int) -> dict[str, CacheSchedule]:
    """The schedules that claim to be better than chance, and the uniform one."""
    dps = DPS(interval=interval, num_groups=None, min_group=None, max_group=None)
    planners: dict[str, tuple[Any, Any]] = {
        "uniform": (Uniform(interval=interval), L1()),
        "power": (Power(interval=interval, exponent=1.5), L1()),
        "threshold": (Threshold(interval=interval, threshold=None), L1()),
        "DPS, L1": (dps, L1()),
        "DPS, L1 weighted by root of share": (dps, Weighted(base="l1", power=0.5)),
        "DPS, residual": (dps, Residual()),
    }
    return {
        name: planner.plan(PlanRequest(num_calls=statistics.num_calls, cost=cost, statistics=statistics))
        for name, (planner, cost) in planners.items()
    }


def errors(model: DiffusionModel, schedule: CacheSchedule, full_NCHW: torch.Tensor) -> torch.Tensor:
    """Relative error of the final latents of each image, float64 [N]."""
    return relative_error(latents(model, schedule), full_NCHW)


def latents(model: DiffusionModel, schedule: CacheSchedule) -> torch.Tensor:
    seeds = image_seeds("tuning", run_seed=0, count=IMAGES)
    labels = torch.arange(IMAGES) % max(1, model.component.num_classes)
    *_, last = denoise(
        model.denoiser, model.noise_scheduler(STEPS), initial_noise(seeds, model.component.latent_shape),
        cond=model.condition(labels), acceleration=Acceleration(schedule=schedule),
    )  # fmt: skip
    return last.x_NCHW


def compare(model: DiffusionModel, num_random: int) -> dict[str, Any]:
    """For each interval: the mean error of every planned schedule, where it ranks among random ones, and two tests."""
    phases = ((0, model.denoiser.sites),)
    loops = Loops(model=model, num_steps=STEPS, run_seed=0)
    statistics = collect_statistics(
        loops.full(model.denoiser, CALIBRATION, CALIBRATION), phases=phases,
        noise_scheduler=model.noise_scheduler(STEPS), window=2 * max(INTERVALS) - 1,
    )  # fmt: skip
    full = latents(model, every_call(statistics.num_calls))
    out: dict[str, Any] = {}
    for interval in INTERVALS:
        request = PlanRequest(num_calls=statistics.num_calls, cost=L1(), statistics=statistics)
        chance = []
        for seed in range(num_random):
            schedule = RandomGroups(interval=interval, seed=seed).plan(request)
            chance.append(float(errors(model, schedule, full).mean()))
            log.info("N=%d, random schedule %d of %d: %.4f", interval, seed + 1, num_random, chance[-1])
        ours = {name: errors(model, schedule, full) for name, schedule in planned(statistics, interval).items()}
        rows = {}
        for name, errors_N in ours.items():
            mean = float(errors_N.mean())
            # the share of random schedules at least as good, counting the planned one itself (a permutation test)
            beaten_by = (1 + sum(value <= mean for value in chance)) / (1 + num_random)
            same = torch.equal(errors_N, ours["uniform"])
            paired = None if same else float(wilcoxon(errors_N.numpy(), ours["uniform"].numpy()).pvalue)
            rows[name] = {
                "error": mean,
                "p_against_random": beaten_by,
                "difference_to_uniform": mean - float(ours["uniform"].mean()),
                "p_against_uniform": paired,
            }
        out[str(interval)] = {"random": chance, "planned": rows}
    return out


def draw(results: dict[str, Any], path: Path, model: str) -> None:
    """A histogram of random schedules for each interval, and a line for each planned one."""
    from cq.report.looks import new_figure, save_png, style

    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
    dashes = ("-", "--", "-.", "-", "--", "-.")
    with style():
        figure = new_figure(11.0, 3.6)
        panels: Any = figure.subplots(1, len(results["intervals"]))
        for axes, (interval, found) in zip(panels, results["intervals"].items(), strict=True):
            axes.hist(found["random"], bins=12, color="#BBBBBB")
            axes.yaxis.get_major_locator().set_params(integer=True)
            for (name, row), colour, dash in zip(found["planned"].items(), colours, dashes, strict=True):
                axes.axvline(row["error"], color=colour, linestyle=dash, linewidth=1.6, label=name)
            axes.set_title(f"N = {interval}")
            axes.set_xlabel("relative error of the final latents")
        panels[0].set_ylabel(f"random schedules, of {len(found['random'])}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(
            f"{model}: planned schedules among random ones of the same budget ({STEPS} steps, {IMAGES} images)",
            x=0.01, ha="left",
        )  # fmt: skip
        save_png(figure, path.with_suffix(".png"))


@torch.no_grad()
def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    name = sys.argv[1] if len(sys.argv) > 1 else "ldm_mini"
    num_random = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    started = time.monotonic()
    model = replace(component(f"model={name}").load(), sampler=component("sampler=ddim"))
    results = {
        "model": name, "weights_digest": model.component.weights_digest(), "num_steps": STEPS, "num_images": IMAGES,
        "num_random": num_random, "commit": Source.now().commit, "torch": torch.__version__,
        "intervals": compare(model, num_random), "seconds": None,
    }  # fmt: skip
    results["seconds"] = round(time.monotonic() - started)
    (ROOT / f"results/random_schedules_{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, ROOT / f"results/figures/random_schedules_{name}", name)


if __name__ == "__main__":
    main()
