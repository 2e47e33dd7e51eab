"""The laws of predictors and samplers, for every yaml of their groups."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from cq.core.contracts import Predictor, Sampler
from tests.choices import built, names
from tests.families import WRITERS, component

predictors = pytest.mark.parametrize("name", names("predict"))
samplers = pytest.mark.parametrize("name", names("sampler"))


@st.composite
def pasts(draw: st.DrawFn) -> tuple[int, tuple[int, ...]]:
    """A call, and up to six refreshes before it, newest first."""
    gaps = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    call = sum(gaps) + draw(st.integers(0, 100))
    refreshes = []
    at = call
    for gap in gaps:
        at -= gap
        refreshes.append(at)
    return call, tuple(refreshes)


@predictors
@settings(max_examples=50, deadline=None)
@given(past=pasts(), shift=st.integers(1, 50))
def test_one_weight_a_refresh_and_they_sum_to_one(
    name: str, past: tuple[int, tuple[int, ...]], shift: int
) -> None:  # fmt: skip
    """So a map that stands still is predicted exactly, whatever the predictor; and only distances in time count."""
    predictor: Predictor = built("predict", name)
    assert isinstance(predictor, Predictor)
    assert predictor.depth >= 1
    call, refreshes = past[0], past[1][: predictor.depth]
    weights = predictor.weights(call, refreshes)
    assert len(weights) == len(refreshes)
    size = sum(map(abs, weights))
    assert sum(weights) == pytest.approx(1.0, abs=1e-12 * size)
    later = predictor.weights(call + shift, tuple(at + shift for at in refreshes))
    assert later == pytest.approx(weights, abs=1e-12 * size)


@predictors
def test_the_newest_refresh_is_met_where_it_stands(name: str) -> None:
    predictor: Predictor = built("predict", name)
    refreshes = (40, 33, 30, 21, 20)[: predictor.depth]
    assert predictor.weights(40, refreshes) == pytest.approx([1.0] + [0.0] * (len(refreshes) - 1))


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("num_steps", [10, 50])
@samplers
def test_a_trajectory_makes_the_declared_calls_and_stays_finite(
    name: str, num_steps: int, family: str, folders: dict[str, Path]
) -> None:
    """On the noise schedule that is stored with a model of each family."""
    sampler: Sampler = built("sampler", name)
    assert isinstance(sampler, Sampler)
    config = _scheduler_config(family, folders)
    sampler.check(num_steps, config)
    x = torch.randn(2, 3, 4, 4)
    scheduler = sampler.noise_scheduler(config, num_steps)
    timesteps = scheduler.timesteps
    assert len(timesteps) == sampler.num_calls(num_steps)
    assert (timesteps.diff() <= 0).all()
    assert int(timesteps.min()) >= 0
    assert int(timesteps.max()) < config["num_train_timesteps"]
    assert int(timesteps.max()) >= config["num_train_timesteps"] * 0.8  # it starts in the noise
    for timestep in timesteps:
        x = scheduler.step(0.5 * scheduler.scale_model_input(x, timestep), timestep, x).prev_sample
        assert x.isfinite().all()


@samplers
def test_loops_with_schedulers_of_their_own_do_not_disturb_each_other(name: str, folders: dict[str, Path]) -> None:
    sampler: Sampler = built("sampler", name)
    config = _scheduler_config("ldm", folders)
    starts = torch.randn(2, 1, 3, 4, 4)

    def interleaved(*rows: int) -> list[torch.Tensor]:
        schedulers = [sampler.noise_scheduler(config, 10) for _ in rows]
        states = [starts[row] for row in rows]
        for call in range(sampler.num_calls(10)):
            for i, scheduler in enumerate(schedulers):
                timestep = scheduler.timesteps[call]
                called = scheduler.scale_model_input(states[i], timestep)
                states[i] = scheduler.step(called.tanh(), timestep, states[i]).prev_sample
        return states

    both = interleaved(0, 1)
    assert torch.equal(both[0], interleaved(0)[0])
    assert torch.equal(both[1], interleaved(1)[0])


@samplers
def test_the_last_call_ends_near_the_prediction_of_a_perfect_denoiser(name: str, folders: dict[str, Path]) -> None:
    """One image is all data: the noise in x is then known exactly, and every solver ends at that image."""
    sampler: Sampler = built("sampler", name)
    scheduler: Any = sampler.noise_scheduler(_scheduler_config("ldm", folders), 50)
    alphas = scheduler.alphas_cumprod
    image = torch.randn(1, 3, 4, 4).clamp(-1, 1)
    x = torch.randn_like(image) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        alpha, called = alphas[int(timestep)], scheduler.scale_model_input(x, timestep)
        x = scheduler.step((called - alpha.sqrt() * image) / (1 - alpha).sqrt(), timestep, x).prev_sample
    left = float((1 - alphas[0]).sqrt())  # of the noise, where the last step ends at the first noise level and not at 0
    assert_close(x, image, rtol=0, atol=5 * left)


def _scheduler_config(family: str, folders: dict[str, Path]) -> Any:
    return component(family, folders[family]).noise
