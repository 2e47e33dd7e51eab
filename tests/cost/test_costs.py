"""Every cost equals its definition computed from the maps themselves."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.contracts import Cost
from cq.cost.l1 import L1
from cq.cost.residual import Residual
from cq.cost.squared import Squared
from cq.cost.weighted import Weighted, step_shares
from cq.laws.drift import drifting_maps, falling_sigma, statistics_of
from tests.oracles.least_squares import lstsq_per_channel

T, WINDOW = 7, 4
COSTS = [L1(), Squared(), Weighted(base="l1", power=1.0), Weighted(base="squared", power=0.5), Residual()]


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Sums of some 300 float64 numbers, in another order than the definition's."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def every_pair() -> list[tuple[int, int]]:
    return [(t, d) for t in range(T) for d in range(min(WINDOW, t) + 1)]


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_distances_are_a_band_of_zero_diagonal_and_infinite_corner(cost: Cost) -> None:
    distance = cost.distances(statistics_of(drifting_maps(T, seed=0), window=WINDOW))
    assert isinstance(cost, Cost)
    assert distance.dtype == torch.float64
    assert distance.shape == (T, WINDOW + 1)
    assert (distance[:, 0] == 0).all()
    exists = torch.arange(T)[:, None] >= torch.arange(WINDOW + 1)
    assert distance[exists].isfinite().all()
    assert (distance[exists] >= 0).all()
    assert (distance[~exists] == torch.inf).all()


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_a_window_as_long_as_the_trajectory_or_longer_changes_no_distance(cost: Cost) -> None:
    maps = drifting_maps(T, seed=1)
    narrow, wide = (cost.distances(statistics_of(maps, window=window)) for window in (WINDOW, T + 2))
    assert_equal(wide[:, : WINDOW + 1], narrow)
    assert (wide[:, T:] == torch.inf).all()


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_statistics_are_left_as_they_were(cost: Cost) -> None:
    statistics = statistics_of(drifting_maps(T, seed=2), window=WINDOW)
    before = statistics.digest
    cost.distances(statistics)
    assert statistics.digest == before


def test_l1_and_squared_sum_differences_over_samples_and_elements() -> None:
    maps = drifting_maps(T, seed=3)
    statistics = statistics_of(maps, window=WINDOW)
    l1, squared = L1().distances(statistics), Squared().distances(statistics)
    for t, d in every_pair():
        assert_equal(l1[t, d], (maps[t] - maps[t - d]).abs().sum())
        assert_equal(squared[t, d], (maps[t] - maps[t - d]).square().sum())


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weighted_multiplies_by_the_drop_of_sigma_at_the_call(power: float) -> None:
    maps, sigma = drifting_maps(T, seed=4), falling_sigma(T)
    statistics = statistics_of(maps, window=WINDOW, sigma_T=sigma)
    distance = Weighted(base="l1", power=power).distances(statistics)
    drops = [float(sigma[t] - (sigma[t + 1] if t + 1 < T else 0.0)) for t in range(T)]
    mean = sum(drops) / T
    for t, d in every_pair():
        assert_equal(distance[t, d], (maps[t] - maps[t - d]).abs().sum() * (drops[t] / mean) ** power)


def test_shares_have_mean_one_and_are_those_of_ddim() -> None:
    sigma = falling_sigma(T)
    share = step_shares(sigma)
    assert_close(share.mean(), torch.tensor(1.0, dtype=torch.float64))
    # deterministic DDIM in x / sqrt(alpha_bar): x moves by (sigma_next - sigma) * eps, so unit eps at one call shifts
    # the end by that call's drop
    for call in range(T):
        ends = []
        for eps in (0.0, 1.0):
            x = 0.0
            for t in range(T):
                following = float(sigma[t + 1]) if t + 1 < T else 0.0
                x += (following - float(sigma[t])) * (eps if t == call else 0.0)
            ends.append(x)
        assert_equal(share[call], torch.tensor((ends[0] - ends[1]) * T / float(sigma[0]), dtype=torch.float64))


def test_a_call_of_no_share_costs_nothing_and_stays_finite() -> None:
    sigma = falling_sigma(T)
    sigma[3] = sigma[2]  # a repeated timestep, as in the quadratic grid: no drop at call 2
    distance = Weighted(base="l1", power=0.5).distances(
        statistics_of(drifting_maps(T, seed=5), window=WINDOW, sigma_T=sigma)
    )
    assert (distance[2, :3] == 0).all()
    assert (distance[2, 3:] == torch.inf).all()


@pytest.mark.parametrize(
    ("sigma", "why"),
    [([3.0, 4.0, 1.0], "must fall"), ([torch.inf, 2.0, 1.0], "not finite"), ([0.0, 0.0, 0.0], "must fall")],
)
def test_shares_are_refused_where_sigma_does_not_fall(sigma: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        step_shares(torch.tensor(sigma))


def residual_by_lstsq(maps_TNCX: Tensor, t: int, d: int) -> Tensor:
    source, target = maps_TNCX[t - d].flatten(2), maps_TNCX[t].flatten(2)
    gain, offset = lstsq_per_channel(source, target)
    return (target - gain[:, None] * source - offset[:, None]).square().sum()


def test_residual_is_what_a_least_squares_fit_of_every_channel_leaves() -> None:
    maps = drifting_maps(T, seed=6)
    distance = Residual().distances(statistics_of(maps, window=WINDOW))
    for t, d in every_pair():
        if d > 0:
            # the closed form cancels sums some 10 times larger than their difference
            assert_close(distance[t, d], residual_by_lstsq(maps, t, d), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_residual_of_affinely_related_maps_is_zero_and_never_below(seed: int) -> None:
    base = drifting_maps(1, seed=seed)[0]
    maps = torch.stack([base, 2.0 * base + 1.0, -0.5 * base + 3.0])
    residual = Residual().distances(statistics_of(maps, window=2))[[1, 2, 2], [1, 1, 2]]
    assert (residual >= 0).all()
    assert (residual < 1e-12 * maps.square().sum()).all()  # rounding of the sums it is the difference of


def test_residual_never_exceeds_the_squared_distance() -> None:
    statistics = statistics_of(drifting_maps(T, seed=8), window=WINDOW)
    exists = torch.arange(T)[:, None] >= torch.arange(WINDOW + 1)
    assert (Residual().distances(statistics) <= Squared().distances(statistics) + 1e-9)[exists].all()  # rounding


def test_residual_of_a_constant_channel_is_the_targets_variance() -> None:
    maps = drifting_maps(2, seed=9)
    maps[0, :, 1] = 0.3  # dead at first, alive later
    distance = Residual().distances(statistics_of(maps, window=1))
    alive = [0, 2, 3]
    centred = maps[1, :, 1] - maps[1, :, 1].mean()
    expected = residual_by_lstsq(maps[:, :, alive], 1, 1) + centred.square().sum()
    assert_close(distance[1, 1], expected, rtol=1e-10, atol=1e-10)  # as above


def test_residual_survives_a_large_mean() -> None:
    maps = drifting_maps(3, seed=10)
    far = statistics_of(maps + 1000.0, window=2)
    near = statistics_of(maps, window=2)
    # squares of 1000 cost six digits of sixteen
    assert_close(Residual().distances(far), Residual().distances(near), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "key"), [({"base": "l2"}, "base"), ({"power": -1.0}, "power"), ({"power": float("inf")}, "power")]
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=f"cost.{key}="):
        replace(Weighted(base="l1", power=1.0), **change)  # type: ignore[arg-type]
