"""A solver as the linear map it is: how much of each noise prediction is in the state after each call.

Deterministic solvers of the reverse process add scaled predictions to a scaled state, however many past ones they look
at. So their coefficients are read off the solver itself: it is run once on as many numbers as there are calls, each
of which gets a prediction of 1 at a call of its own. Legend: U calls made, T call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # brings torch, which a check of a configuration does not need
    from torch import Tensor

    from cq.core.contracts import NoiseScheduler

REMEDY = (
    "Choose a schedule that reads no sketches, as schedule=uniform, or a sampler that does not: of a pipeline "
    "pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False)."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearSolver:
    """state after u calls = start_U[u] * noise + sum over t < u of weight_UT[u, t] * eps_t; rows 0 to T.

    scale_T: float64 [T], what the state is multiplied by before the network sees it at call t.
    """

    start_U: "Tensor"
    weight_UT: "Tensor"
    scale_T: "Tensor"


def read_off(make: "Callable[[], NoiseScheduler]") -> LinearSolver:
    """The coefficients, float64. make: a fresh noise scheduler with its timesteps set.

    Raises ValueError for a solver that is not linear: one that clips or thresholds the images it predicts.
    """
    import torch

    rows_UR, scale_T = _rows(make(), 1.0)
    small_UR, _ = _rows(make(), 1e-3)
    if not torch.allclose(1e3 * small_UR, rows_UR, rtol=1e-4, atol=1e-6 * float(rows_UR.abs().max())):
        raise ValueError(f"sampler: is not linear in the predictions (it clips or thresholds). {REMEDY}")
    return LinearSolver(start_U=rows_UR[:, -1], weight_UT=rows_UR[:, :-1], scale_T=scale_T)


def _rows(scheduler: "NoiseScheduler", unit: float) -> "tuple[Tensor, Tensor]":
    """The states [T + 1, T + 1] on probes of size `unit`, the last column being that of the noise; and the scales."""
    import torch

    calls = len(scheduler.timesteps)
    probes_RR = unit * torch.eye(calls + 1, dtype=torch.float64)
    state_R = probes_RR[-1:] * scheduler.init_noise_sigma
    rows, scales = [state_R[0]], []
    for call, timestep in enumerate(scheduler.timesteps):
        scales.append(float(scheduler.scale_model_input(torch.ones(1, 1, dtype=torch.float64), timestep)))
        state_R = scheduler.step(probes_RR[call : call + 1], timestep, state_R).prev_sample
        rows.append(state_R[0].double())
    return torch.stack(rows), torch.tensor(scales, dtype=torch.float64)
