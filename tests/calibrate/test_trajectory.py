"""The streaming calibration pass against statistics from all maps at once."""

import random
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.calibrate.trajectory import Calibrate, collect_statistics
from cq.core.artifacts import TrajectoryStatistics
from cq.core.denoise import DenoiseStep
from cq.core.denoiser import DenoiserOutput
from cq.laws.drift import SITE, drifting_maps, statistics_of


def noise_scheduler(num_calls: int) -> SimpleNamespace:
    return SimpleNamespace(
        timesteps=torch.arange(num_calls).flip(0) * 3, alphas_cumprod=torch.linspace(0.99, 0.01, 3 * num_calls)
    )


def steps(maps_TNCHW: Tensor) -> Iterator[DenoiseStep]:
    for call, x in enumerate(maps_TNCHW):
        yield DenoiseStep(call, torch.tensor(0), torch.empty(0), DenoiserOutput(torch.empty(0), {SITE: x}))


def collect(*batches: Tensor, window: int) -> TrajectoryStatistics:
    loops = [steps(batch) for batch in batches]
    return collect_statistics(
        loops, phases=((0, (SITE,)),), noise_scheduler=noise_scheduler(len(batches[0])), window=window
    )


def assert_same(found: TrajectoryStatistics, expected: TrajectoryStatistics) -> None:
    assert found.count == expected.count
    assert found.num_calls == expected.num_calls
    # the difference of two maps is rounded to float32 before its absolute value is summed
    assert_close(found.l1_TD, expected.l1_TD, rtol=1e-6, atol=0)
    # float64, but for a difference of squares that cancels three digits where two maps are close
    assert_close(found.squared_TD, expected.squared_TD, rtol=1e-10, atol=1e-10)
    for name in ("sum_TC", "square_TC", "cross_TDC"):
        ours, theirs = getattr(found, name)[SITE], getattr(expected, name)[SITE]
        assert_close(ours, theirs, rtol=1e-12, atol=1e-10)  # order of summation
    assert_close(found.size_T, expected.size_T, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("num_calls", "window"), [(1, 0), (2, 1), (5, 1), (7, 3), (7, 6), (12, 5)])
def test_statistics_of_two_batches_in_either_order_equal_those_of_all_maps_at_once(num_calls: int, window: int) -> None:
    maps = drifting_maps(num_calls, seed=window, samples=5).float()
    expected = statistics_of(maps, window=window)
    first, second = maps[:, :3], maps[:, 3:]
    assert_same(collect(first, second, window=window), expected)
    assert_same(collect(second, first, window=window), expected)
    assert_same(collect(maps, window=window), expected)


def test_a_window_longer_than_the_trajectory_is_cut_to_it() -> None:
    maps = drifting_maps(4, seed=0).float()
    found = collect(maps, window=9)
    assert found.window == 3
    assert_same(found, statistics_of(maps, window=3))


def test_pairs_before_the_first_call_have_infinite_distance_and_no_moments() -> None:
    found = collect(drifting_maps(5, seed=0).float(), window=3)
    for t in range(5):
        for d in range(4):
            assert found.l1_TD[t, d].isinf() == found.squared_TD[t, d].isinf() == (d > t)
            assert bool((found.cross_TDC[SITE][t, d] == 0).all()) == (d > t)
    assert not found.l1_TD[:, 0].any()
    assert not found.squared_TD[:, 0].any()


def test_noise_levels_and_timesteps_are_those_of_the_sampler() -> None:
    scheduler = noise_scheduler(4)
    found = collect(drifting_maps(4, seed=0).float(), window=1)
    assert torch.equal(found.timesteps_T, scheduler.timesteps)
    for t, timestep in enumerate(scheduler.timesteps):
        alpha = float(scheduler.alphas_cumprod[timestep])
        assert float(found.sigma_T[t]) == pytest.approx(((1 - alpha) / alpha) ** 0.5, rel=1e-12)  # the same formula


def peak_of_live_maps(num_calls: int, window: int) -> int:
    """The most maps alive at any call, counted by weak references; each step makes a new one."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    peak = 0

    def loop() -> Iterator[DenoiseStep]:
        nonlocal peak
        for call in range(num_calls):
            x = torch.randn(1, 2, 3, 3)
            alive.add(x)
            peak = max(peak, len(alive))
            output = DenoiserOutput(torch.empty(0), {SITE: x})
            del x
            yield DenoiseStep(call, torch.tensor(0), torch.empty(0), output)

    collect_statistics(
        [loop(), loop()], phases=((0, (SITE,)),), noise_scheduler=noise_scheduler(num_calls), window=window
    )
    return peak


@pytest.mark.parametrize("window", [1, 3])
def test_the_number_of_maps_held_does_not_grow_with_the_number_of_calls(window: int) -> None:
    peaks = {peak_of_live_maps(num_calls, window) for num_calls in (8, 16, 40)}
    assert len(peaks) == 1
    assert max(peaks) <= window + 2  # the window, the new one, and the one that just left


@pytest.mark.parametrize("key", ["num_samples", "batch_size", "max_interval"])
def test_an_impossible_calibration_is_refused(key: str) -> None:
    options = {"num_samples": 4, "batch_size": 2, "max_interval": 5}
    assert Calibrate(**options).window == 9
    with pytest.raises(ValueError, match=rf"calibrate\.{key}=0"):
        Calibrate(**{**options, key: 0})


def test_many_batches_in_any_order_give_the_same_sums() -> None:
    maps = drifting_maps(4, seed=1, samples=6).float()
    batches = [maps[:, i : i + 1] for i in range(6)]
    expected = collect(*batches, window=2)
    random.Random(0).shuffle(batches)
    assert_same(collect(*batches, window=2), expected)
