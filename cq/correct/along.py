"""Fit a correction of the prediction along deployed trajectories, towards those of full precision.

Legend: K terms and a constant.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cq.core.acceleration import HELD, NOISE, Acceleration
from cq.core.artifacts import ChannelAffine
from cq.core.contracts import FitsAlongTrajectories, NoiseScheduler
from cq.core.denoise import Trajectory
from cq.core.denoiser import Denoiser, DenoiserOutput
from cq.correct.corrected import CorrectedDenoiser, terms

CLIPPING = ("clip_sample", "thresholding")  # switches of a scheduler


@dataclass(frozen=True, kw_only=True)
class Uncorrected:
    """A denoiser that lets what a correction asks for pass by."""

    denoiser: Denoiser

    @property
    def sites(self) -> tuple[str, ...]:
        return self.denoiser.sites

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        own = {site: held for site, held in reuse.items() if site not in HELD}
        return self.denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=own)


def wanted_prediction(
    noise_scheduler: NoiseScheduler, timestep: Tensor, x_NCHW: Tensor, eps_NCHW: Tensor, next_NCHW: Tensor
) -> Tensor | None:
    """The prediction that takes the state to `next_NCHW`, float64; None where the step does not read it.

    Read off copies of the scheduler as it stands, with all that it remembers, so any linear solver has its own
    coefficients. Where it also clips or thresholds what is drawn, which is not linear, that of the full-precision step
    is kept: the prediction that makes it is wanted as it is.
    """
    wide_NCHW = x_NCHW.double()

    def stepped(eps_NCHW: Tensor, *, clipped: bool) -> Tensor:
        solver: Any = copy.deepcopy(noise_scheduler)
        if not clipped:
            solver.register_to_config(**{key: False for key in CLIPPING if solver.config.get(key)})
        found: Tensor = solver.step(eps_NCHW, timestep, wide_NCHW).prev_sample
        return found.double()

    none_NCHW = torch.zeros_like(wide_NCHW)
    slope = float((stepped(none_NCHW + 1, clipped=False) - stepped(none_NCHW, clipped=False)).mean())
    if slope == 0:
        return None
    return eps_NCHW.double() + (next_NCHW.to(wide_NCHW) - stepped(eps_NCHW.double(), clipped=True)) / slope


def calls_on_grid(timesteps: Sequence[float], own: Sequence[float]) -> list[int]:
    """Of calls at `timesteps`, those that end where calls at `own` timesteps do: fewer, for fewer steps.

    Raises ValueError where a solver takes steps that the full-precision one does not pass.
    """
    if list(timesteps) == list(own):
        return list(range(len(own)))
    after = {reached: call for call, reached in enumerate([*timesteps[1:], None])}  # the last where one comes twice
    missing = [reached for reached in own[1:] if reached not in after]
    if missing:
        raise ValueError(
            f"correct.output: the full-precision trajectory of {len(timesteps)} calls does not pass timestep "
            f"{missing[0]:g}, as the {len(own)} calls of this run do, so there is nothing to lead them to. Take a "
            "number of steps that divides baseline.num_steps, of the same solver."
        )
    return [after[reached] for reached in [*own[1:], None]]


@dataclass
class _Sums:
    """Normal equations of one call, float64: products of the terms with themselves and with the target."""

    gram_CKK: Tensor | float = 0.0
    cross_CK: Tensor | float = 0.0
    square_C: Tensor | float = 0.0

    def add(self, rows: Sequence[Tensor], target_NCHW: Tensor) -> None:
        rows_CKX = torch.stack([*rows, torch.ones_like(rows[0])]).double().permute(2, 0, 1, 3, 4).flatten(2)
        target_CX = target_NCHW.transpose(0, 1).flatten(1)
        self.gram_CKK = self.gram_CKK + rows_CKX @ rows_CKX.mT
        self.cross_CK = self.cross_CK + (rows_CKX @ target_CX[..., None])[..., 0]
        self.square_C = self.square_C + target_CX.square().sum(1)

    def explained(self, weights_CK: Tensor) -> Tensor:
        """The share of the target's variance [C] that the fit explains."""
        fitted_C = torch.einsum("ck,ckl,cl->c", weights_CK, self.gram_CKK, weights_CK)
        left_C = self.square_C - 2 * (weights_CK * self.cross_CK).sum(1) + fitted_C
        count, total_C = self.gram_CKK[:, -1, -1], self.cross_CK[:, -1]  # type: ignore[index]
        return 1 - left_C / (self.square_C - total_C.square() / count).clamp(min=1e-30)


@torch.no_grad()
def fitted_along(
    corrector: FitsAlongTrajectories, denoiser: Denoiser, trajectories: Sequence[Trajectory],
    wanted: Sequence[Tensor], acceleration: Acceleration,
) -> ChannelAffine:  # fmt: skip
    """The correction of `denoiser`, fitted at every call on all batches before any of them goes on.

    trajectories: of `Uncorrected(denoiser)`, at their start. wanted: of each batch the full-precision states after
    every call, [T, N, C, H, W].
    """
    channels, num_calls = trajectories[0].x_NCHW.shape[1], acceleration.num_calls
    names = (NOISE, *corrector.terms)
    tables = {name: torch.zeros(num_calls, 2, channels) for name in names}
    tables[NOISE][:, 0] = 1.0
    r2 = {NOISE: torch.ones(num_calls, channels)}
    correction = ChannelAffine(schedule=acceleration.schedule.identity, tables=tables, r2=r2)
    mending = CorrectedDenoiser(denoiser=denoiser, correction=correction)
    for call in range(num_calls):
        calls = []
        sums = _Sums()
        used: list[str] = []
        for each, states_TNCHW in zip(trajectories, wanted, strict=True):
            out = each.predict()
            found = terms(out, each.scaled_NCHW, each.reuse)
            calls.append((each, out, found))
            used = [name for name in names if name in found]
            target_NCHW = wanted_prediction(
                each.noise_scheduler, each.timestep, each.x_NCHW, out.eps_NCHW, states_TNCHW[call]
            )
            if target_NCHW is not None:
                sums.add([found[name] for name in used], target_NCHW)
        if isinstance(sums.gram_CKK, Tensor) and isinstance(sums.cross_CK, Tensor):
            weights_CK = corrector.solve(sums.gram_CKK.cpu(), sums.cross_CK.cpu())
            for index, name in enumerate(used):
                tables[name][call, 0] = weights_CK[:, index]
            tables[NOISE][call, 1] = weights_CK[:, -1]
            r2[NOISE][call] = sums.explained(weights_CK.to(sums.gram_CKK)).cpu()
        for each, out, found in calls:
            each.advance(mending.mended(out, found, call=call))
    return correction
