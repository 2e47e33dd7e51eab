"""The laws of corrections that are fitted along trajectories."""

from dataclasses import replace

import torch
from torch import Tensor

from cq.calibrate.loops import Loops
from cq.core.acceleration import Acceleration
from cq.correct.along import Uncorrected, fitted_along
from cq.correct.corrected import corrected
from cq.laws.law import Make, World, hold
from cq.laws.lowering import STEPS, Case, cases

IMAGES = 4


def fitted(make: Make, case: Case, acceleration: Acceleration) -> tuple[Acceleration, Tensor, Loops]:
    """The acceleration with its correction, and the last full-precision states of the images of the fit."""
    loops = Loops(model=case.model, num_steps=STEPS, run_seed=0)
    denoiser = case.model.denoiser
    states = torch.stack([step.x_NCHW for step in loops.full(denoiser, IMAGES, IMAGES)[0]])
    started = loops.started(Uncorrected(denoiser=denoiser), loops.seeds(IMAGES), acceleration)
    found = fitted_along(make(), denoiser, [started], [states], acceleration)
    return replace(acceleration, output=found), states[-1], loops


def error(case: Case, acceleration: Acceleration, wanted: Tensor, loops: Loops) -> float:
    """Of the last states, relative."""
    denoiser = corrected(case.model.denoiser, acceleration.output)
    *_, last = loops.one(denoiser, loops.seeds(IMAGES), acceleration)
    return float((last.x_NCHW - wanted).norm() / wanted.norm())


def images_of_the_fit_end_nearer_to_full_precision(make: Make, world: World) -> None:
    for case in cases(world):
        plain = Acceleration(schedule=case.schedule)
        mended, wanted, loops = fitted(make, case, plain)
        before, after = (error(case, each, wanted, loops) for each in (plain, mended))
        told = f"{case.name}: the relative error of the last states goes from {before:.3g} to {after:.3g}"
        hold(after < before, f"{told}. Look for a sign, or for terms of another call.")


def what_is_not_disturbed_stays(make: Make, world: World) -> None:
    for case in cases(world):
        calls = case.model.sampler.num_calls(STEPS)
        plain = Acceleration(schedule=replace(case.schedule, num_calls=calls, refresh_calls=tuple(range(calls))))
        mended, wanted, loops = fitted(make, case, plain)
        after = error(case, mended, wanted, loops)
        hold(after < 1e-4, f"{case.name}: full precision is moved by {after:.3g}. Fit what leads to its own states.")


def channels_of_one_value_get_finite_weights(make: Make, world: World) -> None:
    rows_CKX = torch.randn(3, 2 + len(make().terms), 50, dtype=torch.float64)
    rows_CKX[:, -1] = 1.0
    true_CK = torch.randn(3, rows_CKX.shape[1], dtype=torch.float64)
    cross_CK = torch.einsum("ckx,clx,cl->ck", rows_CKX, rows_CKX, true_CK)
    weights_CK = make().solve(rows_CKX @ rows_CKX.mT, cross_CK)
    shape = (weights_CK.dtype, weights_CK.shape) == (torch.float64, true_CK.shape)
    hold(shape, f"solve: {weights_CK.dtype}, {tuple(weights_CK.shape)}. Return float64 [C, K].")
    near = torch.allclose(weights_CK, true_CK, atol=1e-3)
    hold(near, "solve: does not find weights that explain the target in full. Solve gram @ weights = cross.")
    for value in (0.0, 1e6 / 3):
        same_CKX = torch.full_like(rows_CKX, value)
        found = make().solve(same_CKX @ same_CKX.mT, same_CKX.sum(2) * value)
        hold(found.isfinite().all(), f"solve: a channel of {value:.3g} gets weights that are no number.")


FOLLOWER = (
    images_of_the_fit_end_nearer_to_full_precision, what_is_not_disturbed_stays,
    channels_of_one_value_get_finite_weights,
)  # fmt: skip
