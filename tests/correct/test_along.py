"""A correction along trajectories: the wanted prediction leads where it is to lead, for every solver."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from cq.core.acceleration import EARLIER_NOISE, HELD_NOISE, HELD_STATE, NOISE, STATE, Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.denoise import Trajectory, denoise
from cq.core.denoiser import OUTPUT, DenoiserOutput
from cq.correct.along import Uncorrected, calls_on_grid, fitted_along, wanted_prediction
from cq.correct.closed_loop import ClosedLoop
from cq.correct.corrected import CorrectedDenoiser, terms
from cq.laws.tiny import noise_scheduler
from cq.models.latent import LatentDiffusion
from cq.run.compose import component

STEPS = 6
CLOSED = ClosedLoop(terms=("state", "held_noise", "held_state"), ridge=1e-8, num_samples=2, batch_size=1)


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpmpp", "euler"])
def test_the_wanted_prediction_leads_the_live_scheduler_to_the_wanted_state(sampler: str) -> None:
    """With all that a multistep solver remembers, at every call."""
    stored: Any = dict(noise_scheduler().config) | {"_class_name": "DDIMScheduler"}
    solver: Any = component(f"sampler={sampler}").noise_scheduler(stored, STEPS)
    x_NCHW = torch.randn(2, 4, 3, 3) * solver.init_noise_sigma
    for timestep in solver.timesteps:
        scaled = solver.scale_model_input(x_NCHW, timestep)
        eps_NCHW, next_NCHW = scaled + torch.randn_like(scaled), torch.randn_like(scaled)
        wanted = wanted_prediction(solver, timestep, x_NCHW, eps_NCHW, next_NCHW)
        assert wanted is not None
        x_NCHW = solver.step(wanted, timestep, x_NCHW.double()).prev_sample.float()
        assert torch.allclose(x_NCHW, next_NCHW, atol=1e-4)


@pytest.mark.parametrize("switch", ["clip_sample", "thresholding"])
def test_what_a_step_clips_is_added_to_what_the_straight_step_would_need(switch: str) -> None:
    straight, clipping = (
        DDIMScheduler.from_config(noise_scheduler().config, clip_sample=False, **more) for more in ({}, {switch: True})
    ) if switch == "thresholding" else (
        DDIMScheduler.from_config(noise_scheduler().config, clip_sample=clip) for clip in (False, True)
    )  # fmt: skip
    for each in (straight, clipping):
        each.set_timesteps(STEPS)
    x, eps, wanted = 5 * torch.randn(3, 2, 4, 3, 3).double()
    timestep = clipping.timesteps[2]
    zero, one = (straight.step(torch.full_like(x, value), timestep, x).prev_sample for value in (0.0, 1.0))
    short = wanted - clipping.step(eps, timestep, x).prev_sample
    found = wanted_prediction(clipping, timestep, x, eps, wanted)
    assert found is not None
    assert torch.allclose(found, eps + short / (one - zero))
    assert clipping.config[switch]  # as it was


def test_fewer_steps_are_led_to_the_states_of_more_steps_at_the_same_timesteps() -> None:
    assert calls_on_grid([50, 40, 30, 20, 10, 0], [40, 20, 0]) == [2, 4, 5]
    assert calls_on_grid([50, 40, 40, 20, 10, 0], [50, 40, 40, 20, 10, 0]) == [0, 1, 2, 3, 4, 5]
    assert calls_on_grid([50, 40, 40, 20, 10, 0], [50, 40, 0]) == [1, 4, 5]
    with pytest.raises(ValueError, match="does not pass timestep 25, as the 3 calls of this run do"):
        calls_on_grid([50, 40, 30, 20, 10, 0], [50, 25, 0])


def test_the_prediction_is_the_sum_of_its_tables_and_held_terms_are_those_of_the_last_refresh() -> None:
    class Network:
        sites = ("s",)

        def __call__(self, x_NCHW: Tensor, *, reuse: Any, **_: Any) -> DenoiserOutput:
            assert set(reuse) <= {"s"}
            return DenoiserOutput(10 * x_NCHW, {} if reuse else {"s": x_NCHW})

    rows = {
        NOISE: (2.0, 1.0),
        STATE: (3.0, 0.0),
        HELD_NOISE: (5.0, 0.0),
        HELD_STATE: (7.0, 0.0),
        EARLIER_NOISE: (11.0, 0.0),
    }
    tables = {name: torch.tensor(row).view(1, 2, 1).repeat(3, 1, 1) for name, row in rows.items()}
    mended = CorrectedDenoiser(denoiser=Network(), correction=ChannelAffine(schedule="", tables=tables, r2={}))
    x = torch.ones(1, 1, 1, 1)
    options: dict[str, Any] = {"timestep": torch.tensor(0), "cond": None}
    first = mended(x, call=0, reuse={}, **options)
    assert float(first.eps_NCHW) == 2 * 10 + 1 + 3
    assert {name: float(held) for name, held in first.features.items()} == {"s": 1, HELD_NOISE: 24, HELD_STATE: 1}
    later = mended(2 * x, call=1, reuse=first.features, **options)
    assert float(later.eps_NCHW) == 2 * 20 + 1 + 3 * 2 + 5 * 24 + 7 * 1
    assert later.features == {}
    again = mended(x, call=2, reuse={name: first.features[name] for name in (HELD_NOISE, HELD_STATE)}, **options)
    assert float(again.features[EARLIER_NOISE]) == 24
    assert float(again.eps_NCHW) == 24 + 5 * 24 + 7
    last = mended(x, call=2, reuse=again.features, **options)
    assert float(last.eps_NCHW) == 24 + 5 * float(again.eps_NCHW) + 7 + 11 * 24


def test_a_fit_on_a_network_that_scales_its_prediction_undoes_the_scale(tiny: LatentDiffusion) -> None:
    """All of what is wrong is linear, so nothing is left of it, and the weights are the inverse of what was done."""
    model = tiny.load()

    class Wrong:
        sites = model.denoiser.sites

        def __call__(self, x_NCHW: Tensor, **rest: Any) -> DenoiserOutput:
            out = model.denoiser(x_NCHW, **rest)
            return DenoiserOutput(0.8 * out.eps_NCHW + 0.1 * x_NCHW, out.features)

    schedule = CacheSchedule(num_calls=STEPS, refresh_calls=tuple(range(STEPS)), planner="none", interval=None)
    every, noise, labels = Acceleration(schedule=schedule), torch.randn(2, 4, 8, 8), torch.tensor([1, 2])
    cond = model.condition(labels)
    full = [
        s.x_NCHW for s in denoise(model.denoiser, model.noise_scheduler(STEPS), noise, cond=cond, acceleration=every)
    ]
    started = Trajectory(
        Uncorrected(denoiser=Wrong()), model.noise_scheduler(STEPS), noise, cond=cond, acceleration=every
    )
    alone = ClosedLoop(terms=("state",), ridge=1e-12, num_samples=2, batch_size=2)
    found = fitted_along(alone, Wrong(), [started], [torch.stack(full)], every)
    assert torch.allclose(found.tables[NOISE][:, 0], torch.tensor(1 / 0.8), atol=1e-3)
    assert torch.allclose(found.tables[STATE][:, 0], torch.tensor(-0.1 / 0.8), atol=1e-3)
    assert torch.allclose(started.x_NCHW, full[-1], atol=1e-4)


def test_a_cached_output_stands_in_whole_and_costs_nothing(tiny: LatentDiffusion) -> None:
    model = tiny.load()
    denoiser = model.denoiser.with_sites((OUTPUT,))
    x_NCHW = torch.randn(2, 4, 8, 8)
    options: dict[str, Any] = {"timestep": torch.tensor(500), "cond": model.condition(torch.tensor([1, 2]))}
    full = denoiser(x_NCHW, call=0, reuse={}, **options)
    assert torch.equal(full.features[OUTPUT], full.eps_NCHW)
    ran: list[int] = []
    handle = denoiser.network.backbone.register_forward_pre_hook(lambda *_: ran.append(1))
    again = denoiser(torch.randn_like(x_NCHW), call=1, reuse=full.features, **options)
    handle.remove()
    assert torch.equal(again.eps_NCHW, full.eps_NCHW)
    assert not again.features
    assert not ran
    plain = model.denoiser(x_NCHW, call=0, reuse={}, **options)
    assert torch.equal(plain.eps_NCHW, full.eps_NCHW)


def test_terms_that_are_not_there_yet_are_left_out() -> None:
    out = DenoiserOutput(torch.ones(1, 1, 1, 1), {})
    assert set(terms(out, torch.ones(1, 1, 1, 1), {})) == {NOISE, STATE}
    assert set(CLOSED.terms) == {STATE, HELD_NOISE, HELD_STATE}
