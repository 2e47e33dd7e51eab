"""The search for refreshes whose errors cancel, against all schedules of a few calls."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from cq.schedule.coherent import CoherentCost, Refreshes

CALLS = 9


def sketches(seed: int, calls: int = CALLS, numbers: int = 6) -> npt.NDArray[np.float64]:
    """Maps that walk at random: the further back, the larger the move; zero where there is no such call."""
    steps_TK = np.random.default_rng(seed).normal(size=(calls, numbers))
    walked_TK = np.cumsum(steps_TK, axis=0)
    out = np.zeros((calls, calls, numbers))
    for t in range(calls):
        for d in range(t + 1):
            out[t, d] = walked_TK[t] - walked_TK[t - d]
    return out


def slow(sketch_TDK: npt.NDArray[np.float64], refreshes: Refreshes, *, coherent: bool = True) -> float:
    """The cost, call by call as it is defined; of groups apart where not coherent."""
    groups = {first: np.zeros(sketch_TDK.shape[2]) for first in refreshes}
    for t in range(len(sketch_TDK)):
        last = max(first for first in refreshes if first <= t)
        groups[last] = groups[last] + sketch_TDK[t, t - last]
    moves = list(groups.values())
    return float(np.square(sum(moves)).sum() if coherent else sum(np.square(move).sum() for move in moves))


def schedules(groups: int, longest: int) -> list[Refreshes]:
    """All of so many groups, none longer."""
    chosen = [(0, *rest) for rest in combinations(range(1, CALLS), groups - 1)]
    return [each for each in chosen if max(np.diff((*each, CALLS))) <= longest]


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_is_the_squared_sum_over_all_calls_and_the_search_finds_the_least(seed: int) -> None:
    sketch = sketches(seed)
    cost = CoherentCost(sketch_TDK=sketch, max_group=5)
    every = schedules(3, 5)
    for each in every:
        assert cost.of(each) == pytest.approx(slow(sketch, each))
    least = min(slow(sketch, each) for each in every)
    found = min((cost.improved(start) for start in every[:: len(every) // 5]), key=cost.of)
    assert cost.of(found) == pytest.approx(least)


@pytest.mark.parametrize("seed", range(3))
def test_each_search_ends_where_no_single_move_improves(seed: int) -> None:
    sketch = sketches(seed)
    cost, every = CoherentCost(sketch_TDK=sketch, max_group=5), set(schedules(4, 5))
    for start in sorted(every)[::11]:
        found = cost.improved(start)
        assert found in every
        assert slow(sketch, found) <= slow(sketch, start)
        beside = [each for each in every if len(set(each) & set(found)) == 3]
        assert all(slow(sketch, each) >= slow(sketch, found) * (1 - 1e-6) for each in beside)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_groups_apart_are_the_optimum_of_dynamic_programming(groups: int) -> None:
    sketch = sketches(7)
    found = CoherentCost(sketch_TDK=sketch, max_group=6).apart(groups)
    least = min(slow(sketch, each, coherent=False) for each in schedules(groups, 6))
    assert slow(sketch, found, coherent=False) == pytest.approx(least)


def test_too_long_a_group_costs_infinitely_much_and_is_split() -> None:
    cost = CoherentCost(sketch_TDK=sketches(1), max_group=5)
    assert cost.of((0, 8)) == float("inf")
    assert cost.of(cost.improved((0, 1, 8))) < float("inf")
