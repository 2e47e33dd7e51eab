"""The laws of predictors and of samplers."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch

from cq.core.contracts import Predictor, Sampler
from cq.laws.law import Make, World, hold


def check_weights(predictor: Predictor, call: int, past: Sequence[int], shift: int) -> None:
    """One weight a refresh, of sum 1, and the same weights `shift` calls later. past: refreshes, newest first."""
    refreshes = tuple(past[: predictor.depth])
    weights = predictor.weights(call, refreshes)
    where = f"weights({call}, {refreshes})={weights}"
    hold(len(weights) == len(refreshes), f"{where}: must be one a refresh. It gets `depth` of them or fewer.")
    size = sum(map(abs, weights))
    told = f"{where}: sums to {sum(weights)}. Let it sum to 1, so that a map that stands still is met."
    hold(math.isclose(sum(weights), 1.0, abs_tol=1e-12 * size), told)
    later = predictor.weights(call + shift, tuple(at + shift for at in refreshes))
    same = all(math.isclose(a, b, abs_tol=1e-12 * size) for a, b in zip(later, weights, strict=True))
    hold(same, f"{where}: other weights {shift} calls later. Let only distances in time count.")


def one_weight_a_refresh_and_they_sum_to_one(make: Make, world: World) -> None:
    """So a map that stands still is predicted exactly, whatever the predictor; and only distances in time count."""
    draw = random.Random(0)
    hold(make().depth >= 1, f"depth={make().depth}: must be at least 1. It looks back on one refresh or more.")
    for _ in range(50):
        gaps = [draw.randint(1, 20) for _ in range(draw.randint(1, 6))]
        call = sum(gaps) + draw.randint(0, 100)
        check_weights(make(), call, [call - sum(gaps[: i + 1]) for i in range(len(gaps))], draw.randint(1, 50))


def the_newest_refresh_is_met_where_it_stands(make: Make, world: World) -> None:
    refreshes = (40, 33, 30, 21, 20)[: make().depth]
    weights = make().weights(40, refreshes)
    met = all(math.isclose(w, float(i == 0), abs_tol=1e-9) for i, w in enumerate(weights))
    hold(
        met, f"weights(40, {refreshes})={weights}: at a refresh its own map is at hand. Give it weight 1, the others 0."
    )


PREDICTOR = (one_weight_a_refresh_and_they_sum_to_one, the_newest_refresh_is_met_where_it_stands)


def a_trajectory_makes_the_declared_calls_and_stays_finite(make: Make, world: World) -> None:
    """On the noise schedule that is stored with each of the models."""
    for name, component in world.components.items():
        for num_steps in (10, 50):
            sampler: Sampler = make()
            sampler.check(num_steps, component.noise)
            scheduler = sampler.noise_scheduler(component.noise, num_steps)
            times, levels = scheduler.timesteps, component.noise["num_train_timesteps"]
            where = f"{name}, {num_steps} steps"
            told = f"{where}: {len(times)} timesteps, num_calls says {sampler.num_calls(num_steps)}. Let them agree."
            hold(len(times) == sampler.num_calls(num_steps), told)
            hold((times.diff() <= 0).all(), f"{where}: timesteps go up. Order them from noise to image.")
            inside = int(times.min()) >= 0 and levels * 0.8 <= int(times.max()) < levels
            hold(
                inside,
                f"{where}: timesteps {int(times.max())}..{int(times.min())}. Begin in the noise, below {levels}.",
            )
            x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
            for timestep in times:
                x = scheduler.step(0.5 * scheduler.scale_model_input(x, timestep), timestep, x).prev_sample
                hold(x.isfinite().all(), f"{where}: not finite at timestep {int(timestep)}. Look at its coefficients.")


def loops_with_schedulers_of_their_own_do_not_disturb_each_other(make: Make, world: World) -> None:
    sampler: Sampler = make()
    starts = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = next(iter(world.components.values())).noise

    def interleaved(*rows: int) -> list[torch.Tensor]:
        schedulers = [sampler.noise_scheduler(noise, 10) for _ in rows]
        states = [starts[row] for row in rows]
        for call in range(sampler.num_calls(10)):
            for i, scheduler in enumerate(schedulers):
                timestep = scheduler.timesteps[call]
                called = scheduler.scale_model_input(states[i], timestep)
                states[i] = scheduler.step(called.tanh(), timestep, states[i]).prev_sample
        return states

    both = interleaved(0, 1)
    alone = torch.equal(both[0], interleaved(0)[0]) and torch.equal(both[1], interleaved(1)[0])
    hold(alone, "two loops at once change each other. Return a fresh scheduler of noise_scheduler every time.")


def the_last_call_ends_near_the_prediction_of_a_perfect_denoiser(make: Make, world: World) -> None:
    """One image is all data: the noise in x is then known exactly, and every solver ends at that image."""
    scheduler: Any = make().noise_scheduler(next(iter(world.components.values())).noise, 50)
    alphas = scheduler.alphas_cumprod
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 4, 4, generator=draw).clamp(-1, 1)
    x = torch.randn(image.shape, generator=draw) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        alpha, called = alphas[int(timestep)], scheduler.scale_model_input(x, timestep)
        x = scheduler.step((called - alpha.sqrt() * image) / (1 - alpha).sqrt(), timestep, x).prev_sample
    left = float((1 - alphas[0]).sqrt())  # of the noise, where the last step ends at the first noise level and not at 0
    far = float((x - image).abs().max())
    hold(far <= 5 * left, f"ends {far:.3g} away from the only image there is. Look at the last step, and at its order.")


SAMPLER = (
    a_trajectory_makes_the_declared_calls_and_stays_finite,
    loops_with_schedulers_of_their_own_do_not_disturb_each_other,
    the_last_call_ends_near_the_prediction_of_a_perfect_denoiser,
)  # fmt: skip
