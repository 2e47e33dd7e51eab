"""What planning and correcting take at 1,000 steps and at true size. Usage: python experiments/scale/run.py

Planners plan on made-up statistics and sketches of full size, whose values do not decide how long that takes. Networks
have random weights: a call is timed whole, cached, and with the gradients of four projections that the adjoint needs,
on one image with guidance. What a stage takes is the product of its calls, which are counted. Prints Markdown.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from cq.bench.scenario import read_scenario
from cq.bench.subject import Subject, subject_of
from cq.bench.weigh import forget_peak, resident_bytes
from cq.core.artifacts import ReuseSketches, TrajectoryStatistics
from cq.core.planning import PlanRequest, SchedulePlanner
from cq.cost.l1 import L1
from cq.run.compose import component, composed, composing

CALLS, INTERVALS, NUMBERS, PROJECTIONS = 1000, (5, 10, 20), 48, 4
NETWORKS = {"ldm_imagenet256": 250, "sd_v1_4": 51, "dit_xl2_256": 50}  # to the calls of the paper's rows
TRAJECTORIES = 12  # of the sketches; of a closed loop's fit 32
MIB = 2**20


def measured(work: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Median seconds, and MiB above what was held before at the peak."""
    work()
    forget_peak()
    before, taken = resident_bytes(), []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken), (resident_bytes("VmHWM") - before) / MIB


def request(window: int) -> PlanRequest:
    """Made-up knowledge of full size: distances that grow with the distance, and normal sketches that do."""
    generator = torch.Generator().manual_seed(0)
    distance_D = torch.arange(window + 1, dtype=torch.float64)
    behind_TD = torch.arange(CALLS)[:, None] - distance_D < 0
    l1_TD = (distance_D * (1 + torch.rand(CALLS, window + 1, generator=generator, dtype=torch.float64))).masked_fill(
        behind_TD, torch.inf
    )
    sketch_TDK = torch.randn(CALLS, window + 1, NUMBERS, generator=generator, dtype=torch.float64)
    sketch_TDK = (sketch_TDK * distance_D[:, None]).masked_fill(behind_TD[..., None], 0.0)
    statistics = TrajectoryStatistics(
        num_calls=CALLS, phases=((0, ("map",)),), count={"map": 1}, l1_TD=l1_TD, squared_TD=l1_TD.square(),
        size_T=torch.ones(CALLS, dtype=torch.float64), sum_TC={}, square_TC={}, cross_TDC={},
        timesteps_T=torch.arange(CALLS - 1, -1, -1), sigma_T=torch.ones(CALLS, dtype=torch.float64),
    )  # fmt: skip
    sketches = ReuseSketches(trajectories=TRAJECTORIES, sketch_TDK=sketch_TDK)
    return PlanRequest(num_calls=CALLS, cost=L1(), statistics=statistics, sketches=sketches)


def planning() -> None:
    print(f"| planner, {CALLS} calls | N | seconds | peak, MiB |\n|---|---|---|---|")
    for name in ("dps", "adjoint"):
        for interval in INTERVALS:
            planner: SchedulePlanner = component(f"schedule={name}", f"budget.cache_interval={interval}")
            seconds, peak = measured(partial(planner.plan, request(2 * interval - 1)), repeats=1)
            print(f"| {name} | {interval} | {seconds:.1f} | {peak:.0f} |", flush=True)


def gradient(subject: Subject) -> None:
    """Of `PROJECTIONS` projections of a call's prediction, as `cq.calibrate.adjoint` takes them."""
    denoiser = subject.denoiser.widened()
    with torch.enable_grad():
        seen = subject.x_NCHW.detach().requires_grad_()
        out = denoiser(seen, call=0, timestep=torch.tensor(500), cond=subject.cond, reuse={}).eps_NCHW
        for _ in range(PROJECTIONS):
            torch.autograd.grad(out, seen, torch.randn_like(out), retain_graph=True)


@torch.no_grad()
def networks() -> None:
    print(
        "| network | full call, s | cached, s | with gradients, s | peak of a call, MiB | with gradients | sketches, h "
        "| closed loop, h |\n|---|---|---|---|---|---|---|---|"
    )
    for name, calls in NETWORKS.items():
        scenario = read_scenario(name)
        with composing():
            subject = subject_of(scenario, composed([f"model={name}"])[0])
        maps = subject.call(subject.denoiser).features
        full, peak = measured(partial(subject.call, subject.denoiser))
        cached, _ = measured(partial(subject.call, subject.denoiser, reuse=maps))
        grad, peak_grad = measured(partial(gradient, subject), repeats=1)
        interval = 5
        window = 2 * interval - 1
        sketches = TRAJECTORIES * calls * (2 * full + grad + window * cached) / 3600
        loop = 32 * calls * (full + full / interval + cached * (1 - 1 / interval)) / 3600
        print(
            f"| {name} | {full:.2f} | {cached:.3f} | {grad:.2f} | {peak:.0f} | {peak_grad:.0f} | {sketches:.1f} | "
            f"{loop:.1f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    planning()
    print()
    networks()
