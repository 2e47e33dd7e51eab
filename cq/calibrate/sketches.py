"""Sketches of what reuse does to the final latent: the first-order move of a few projections, for every near pair.

e_{s,t} = eps(map of call s at call t) - eps(full), both at the full-precision state of call t, is reduced at once to
<lambda_t, e_{s,t}> (`cq.calibrate.adjoint`), so no error is ever kept. Legend: T call, D distance in calls, K sketch
numbers (projection and trajectory), P projection, N batch.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from cq.calibrate.adjoint import drawn_projections, pulled_back
from cq.core.denoise import DenoiseStep
from cq.core.denoiser import Denoiser
from cq.core.phases import Phases, sites_at
from cq.sampler.linear import LinearSolver


def batch_sketches(
    denoiser: Denoiser,
    trajectory: Callable[[], Iterable[DenoiseStep]],
    *,
    seeds: tuple[int, ...],
    noise_NCHW: Tensor,
    cond: Tensor | None,
    solver: LinearSolver,
    phases: Phases,
    window: int,
    projections: int,
) -> dict[str, Tensor]:
    """`sketch_TDK` of one batch, float64 [T, window + 1, P * N], image by image; zero where t - d < 0.

    trajectory: the full-precision denoising loop of the batch, run twice. noise_NCHW: what it starts from, unscaled.
    """
    steps = [(step.timestep, step.x_NCHW) for step in trajectory()]
    timesteps = torch.stack([timestep for timestep, _ in steps])
    before = [noise_NCHW * float(solver.start_U[0]), *(x_NCHW for _, x_NCHW in steps[:-1])]
    inputs_TNCHW = torch.stack([x * float(scale) for x, scale in zip(before, solver.scale_T, strict=True)])
    lambda_TPNCHW = pulled_back(
        denoiser, inputs_TNCHW, timesteps=timesteps, cond=cond, solver=solver,
        projections_PNCHW=drawn_projections(seeds, steps[-1][1], projections),
    )  # fmt: skip
    sketch_TDNP = torch.zeros(len(steps), window + 1, len(seeds), projections, dtype=torch.float64)
    past: list[Mapping[str, Tensor]] = []  # maps of the calls before, newest first
    with torch.no_grad():
        for step in trajectory():
            t, sites = step.call, sites_at(phases, step.call)
            for d, maps in enumerate(past, start=1):
                eps_NCHW = denoiser(
                    inputs_TNCHW[t],
                    call=t,
                    timestep=step.timestep,
                    cond=cond,
                    reuse={site: maps[site] for site in sites},
                ).eps_NCHW
                error_NCHW = eps_NCHW - step.output.eps_NCHW
                sketch_TDNP[t, d] = torch.einsum("pnchw,nchw->np", lambda_TPNCHW[t].double(), error_NCHW.double()).cpu()
            past = [step.output.features, *past][:window]
    return {"sketch_TDK": sketch_TDNP.flatten(2)}
