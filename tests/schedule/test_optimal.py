"""The dynamic programming is checked against enumeration, and against its own recurrence written out."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cq.schedule.optimal import group_costs, optimal_groups
from tests.oracles.grouping import best_groupings, grouping_cost, lengths, random_distances, recurrence


@pytest.mark.parametrize("num_calls", range(1, 11))
def test_cost_and_grouping_equal_enumeration_for_every_interval_bounded_and_unbounded(num_calls: int) -> None:
    bounds = {(-(-n // 2), 2 * n) for n in range(1, num_calls + 1)} | {(1, num_calls)}
    for lo, hi in sorted(bounds):
        distance = random_distances(num_calls, num_calls, seed=100 * num_calls + lo, levels=3)  # many ties
        best = best_groupings(distance, min_group=lo, max_group=hi)
        table = optimal_groups(distance, min_group=lo, max_group=hi)
        assert {k for k, cost in enumerate(table.cost_K) if np.isfinite(cost)} == set(best)
        for k, (cost, starts) in best.items():
            assert table.cost_K[k] == cost  # whole numbers: sums are exact in any order
            assert table.refresh_calls(k) == starts


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t), st.integers(1, 2 * t))),
    st.integers(0, 10_000),
)
def test_any_bounds_give_the_enumerated_optimum(shape: tuple[int, int, int], seed: int) -> None:
    num_calls, lo, span = shape
    distance = random_distances(num_calls, num_calls, seed=seed, levels=4)
    best = best_groupings(distance, min_group=lo, max_group=lo + span)
    table = optimal_groups(distance, min_group=lo, max_group=lo + span)
    assert {k: (c, table.refresh_calls(k)) for k, c in enumerate(table.cost_K) if np.isfinite(c)} == best


@pytest.mark.parametrize("seed", range(40))
def test_larger_instances_equal_the_recurrence_written_out(seed: int) -> None:
    generator = np.random.default_rng(seed)
    num_calls, interval = int(generator.integers(20, 61)), int(generator.integers(2, 9))
    num_groups = -(-num_calls // interval)
    lo, hi = -(-interval // 2), 2 * interval
    distance = random_distances(num_calls, hi, seed=seed)
    cost, starts = recurrence(distance, min_group=lo, max_group=hi, num_groups=num_groups)
    table = optimal_groups(distance, min_group=lo, max_group=hi)
    assert table.refresh_calls(num_groups) == starts
    assert table.cost_K[num_groups] == cost  # both add in order of calls, so to the last bit


def test_one_solve_holds_what_a_separate_solve_for_each_number_of_groups_finds() -> None:
    distance = random_distances(40, 12, seed=1)
    table = optimal_groups(distance, min_group=3, max_group=12)
    for k in range(4, 14):
        alone = optimal_groups(distance, min_group=3, max_group=12, max_groups=k)
        assert alone.cost_K[k] == table.cost_K[k]
        assert alone.refresh_calls(k) == table.refresh_calls(k)


@pytest.mark.parametrize("seed", range(5))
def test_cost_never_rises_with_more_groups_when_unbounded(seed: int) -> None:
    # cutting the last call off a group drops its cost and adds none, whatever the distances
    costs = optimal_groups(random_distances(30, 30, seed=seed), min_group=1, max_group=30).cost_K[1:]
    assert (np.diff(costs) <= 1e-12).all()  # sums of 30 numbers below 1, added in two orders


def test_reported_cost_is_the_cost_of_the_reported_grouping() -> None:
    distance = random_distances(50, 16, seed=2)
    table = optimal_groups(distance, min_group=4, max_group=16)
    for k in range(4, 13):
        starts = table.refresh_calls(k)
        # both add some 50 numbers below 1, in different orders
        np.testing.assert_allclose(grouping_cost(starts, distance), table.cost_K[k], rtol=1e-13)
        assert min(lengths(starts, 50)) >= 4
        assert max(lengths(starts, 50)) <= 16


def test_one_group_and_as_many_groups_as_calls() -> None:
    distance = random_distances(7, 7, seed=3, levels=5)
    table = optimal_groups(distance, min_group=1, max_group=7)
    assert table.refresh_calls(1) == (0,)
    assert table.cost_K[1] == sum(distance[t, t] for t in range(7))
    assert table.refresh_calls(7) == tuple(range(7))
    assert table.cost_K[7] == 0.0


def test_longest_group_is_clamped_to_the_trajectory() -> None:
    distance = random_distances(6, 6, seed=4)
    assert (
        optimal_groups(distance, min_group=2, max_group=60).cost_K
        == optimal_groups(distance, min_group=2, max_group=6).cost_K
    ).all()


def test_equal_costs_resolve_to_the_smallest_last_start() -> None:
    flat = random_distances(6, 6, seed=5, levels=1)  # all zero
    assert optimal_groups(flat, min_group=1, max_group=6).refresh_calls(3) == (0, 1, 2)
    assert optimal_groups(flat, min_group=2, max_group=3).refresh_calls(2) == (0, 3)


def test_unreachable_numbers_of_groups_cost_infinity_and_are_refused_with_the_range() -> None:
    table = optimal_groups(random_distances(12, 8, seed=6), min_group=2, max_group=8)
    assert np.isinf(table.cost_K[[0, 1]]).all()
    assert len(table.cost_K) == 7
    for k in (0, 1, 7, 12):
        with pytest.raises(ValueError, match="2 to 6"):
            table.refresh_calls(k)


def test_nothing_fits_is_infinite_everywhere() -> None:
    assert np.isinf(optimal_groups(random_distances(5, 4, seed=7), min_group=3, max_group=4).cost_K).all()
    too_short = optimal_groups(random_distances(3, 3, seed=7), min_group=5, max_group=9)
    with pytest.raises(ValueError, match="none"):
        too_short.refresh_calls(1)


def test_a_table_cannot_be_written_to() -> None:
    table = optimal_groups(random_distances(5, 5, seed=8), min_group=1, max_group=5)
    with pytest.raises(ValueError, match="read-only"):
        table.cost_K[1] = 0.0


def test_bad_distances_and_bounds_are_refused() -> None:
    good = random_distances(8, 4, seed=9)
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[5, 2] = bad
        with pytest.raises(ValueError, match="not finite"):
            optimal_groups(broken, min_group=1, max_group=4)
    with pytest.raises(ValueError, match="4 columns"):
        optimal_groups(good, min_group=1, max_group=5)
    for lo, hi in ((0, 4), (3, 2)):
        with pytest.raises(ValueError, match="in order"):
            optimal_groups(good, min_group=lo, max_group=hi)


def test_group_costs_are_the_sums_they_stand_for() -> None:
    distance = random_distances(9, 5, seed=10, levels=7)
    costs = group_costs(distance, max_group=5)
    for s in range(9):
        for length in range(min(5, 9 - s) + 1):
            assert costs[s, length] == sum(distance[s + i, i] for i in range(length))


def test_a_thousand_calls_take_a_second_or_less() -> None:
    distance = random_distances(1000, 40, seed=11)
    begin = time.perf_counter()
    table = optimal_groups(distance, min_group=10, max_group=40)
    seconds = time.perf_counter() - begin
    assert np.isfinite(table.cost_K[25:101]).all()
    assert seconds < 3  # some 0.05 s on an idle core; the bound leaves room for a busy machine
