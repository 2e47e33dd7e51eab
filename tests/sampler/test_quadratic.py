"""The quadratic grid against the paper's numbers, and its solver against diffusers' on a grid that both have."""

import math
import warnings

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from torch.testing import assert_close

from cq.sampler.ddim_quadratic import QuadraticDDIM
from cq.sampler.grid import grid_ddim

CIFAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}


def noise_of(x: Tensor, timestep: Tensor) -> Tensor:
    """Any network."""
    return torch.sin(3 * x + timestep / 100)


def walk(scheduler: object, x: Tensor) -> list[Tensor]:
    states = []
    for timestep in scheduler.timesteps:  # type: ignore[attr-defined]
        x = scheduler.step(noise_of(x, timestep), timestep, x).prev_sample  # type: ignore[attr-defined]
        states.append(x)
    return states


def test_the_papers_grid_starts_at_800_and_repeats_0_four_times_and_2_twice() -> None:
    grid = QuadraticDDIM(distinct=False).timesteps(100)
    assert grid[0] == 800
    assert grid == sorted(grid, reverse=True)
    assert [(t, grid.count(t)) for t in sorted(set(grid)) if grid.count(t) > 1] == [(0, 4), (2, 2)]
    assert len(set(grid)) == 96
    exact = [(i * math.sqrt(800) / 99) ** 2 for i in range(100)]
    assert all(t <= value + 1e-9 < t + 1 for t, value in zip(reversed(grid), exact, strict=True))


@pytest.mark.parametrize("steps", [2, 10, 100, 801])
def test_the_clean_grid_repeats_nothing_and_has_as_many_calls(steps: int) -> None:
    grid, papers = (QuadraticDDIM(distinct=distinct).timesteps(steps) for distinct in (True, False))
    assert len(grid) == len(set(grid)) == steps
    assert grid == sorted(grid, reverse=True)
    assert (grid[0], grid[-1]) == (800, 0)
    assert all(0 <= a - b <= 6 for a, b in zip(grid, papers, strict=True)) or steps == 801


@pytest.mark.parametrize("steps", [0, 1, 802])
def test_other_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"budget\.num_steps={steps}: .* 2 to 801"):
        QuadraticDDIM(distinct=True).check(steps)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("one", [False, True])
def test_on_diffusers_own_grid_it_is_diffusers_ddim(clip: bool, one: bool) -> None:
    config = {**CIFAR, "clip_sample": clip, "set_alpha_to_one": one}
    stock, own = DDIMScheduler(**config), grid_ddim()(**config)
    stock.set_timesteps(20)
    own.set_grid(stock.timesteps.tolist())
    x = torch.randn(2, 3, 4, 4)
    for a, b in zip(walk(own, x), walk(stock, x), strict=True):
        assert torch.equal(a, b)


def test_between_any_timesteps_it_is_the_first_order_solver() -> None:
    """DDIM is DPM-Solver of order 1 (arXiv:2206.00927), which diffusers takes along a grid of one's own."""
    own = QuadraticDDIM(distinct=True).noise_scheduler({**CIFAR, "set_alpha_to_one": True}, 30)
    other = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, solver_order=1, algorithm_type="dpmsolver++", final_sigmas_type="zero"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands numpy a tensor
        other.set_timesteps(timesteps=own.timesteps.tolist())
    x = torch.randn(2, 3, 4, 4)
    for a, b in zip(walk(own, x), walk(other, x), strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_repeated_timestep_changes_nothing() -> None:
    scheduler = QuadraticDDIM(distinct=False).noise_scheduler({**CIFAR, "set_alpha_to_one": True}, 100)
    x = torch.randn(2, 3, 4, 4)
    states = [x, *walk(scheduler, x)]
    timesteps = scheduler.timesteps.tolist()
    repeated = [i for i in range(99) if timesteps[i] == timesteps[i + 1]]
    assert len(repeated) == 4
    for i in repeated:
        assert_close(states[i + 1], states[i], rtol=1e-5, atol=1e-5)


def test_what_predicts_no_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        QuadraticDDIM(distinct=True).noise_scheduler({**CIFAR, "prediction_type": "sample"}, 10)
