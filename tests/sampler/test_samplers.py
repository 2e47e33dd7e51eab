"""Samplers: calls a trajectory, timesteps, and what is refused."""

import pytest
import torch

from cq.sampler.ddim import DDIM
from cq.sampler.dpmpp import DPMpp
from cq.sampler.euler import Euler
from cq.sampler.plms import PLMS
from cq.sampler.stock import StockSolver
from cq.zoo.recipes.diffusion import ldm_noise_scheduler

SAMPLERS: dict[str, StockSolver] = {"ddim": DDIM(), "plms": PLMS(), "dpmpp": DPMpp(), "euler": Euler()}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [10, 50])
def test_a_trajectory_makes_the_calls_that_were_declared(name: str, num_steps: int) -> None:
    sampler = SAMPLERS[name]
    sampler.check(num_steps)
    scheduler = sampler.noise_scheduler(ldm_noise_scheduler().config, num_steps)
    assert len(scheduler.timesteps) == sampler.num_calls(num_steps)
    assert (scheduler.timesteps.diff() <= 0).all()
    x = torch.randn(2, 4, 8, 8)
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        x = scheduler.step(torch.zeros_like(x), timestep, x).prev_sample
    assert x.isfinite().all()


def test_plms_calls_its_second_step_twice() -> None:
    timesteps = PLMS().noise_scheduler(ldm_noise_scheduler().config, 50).timesteps
    assert len(timesteps) == 51
    assert timesteps[1] == timesteps[2]
    assert timesteps[0] > timesteps[1] > timesteps[3]


@pytest.mark.parametrize(
    ("name", "num_steps"), [("ddim", 300), ("ddim", 1), ("plms", 1), ("plms", 300), ("dpmpp", 250), ("euler", 1000)]
)
def test_a_step_count_that_the_sampler_cannot_take_is_refused(name: str, num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"budget.num_steps={num_steps}: "):
        SAMPLERS[name].check(num_steps)
