"""The threshold schedule: sums of change, by hand and within a budget."""

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cq.core.contracts import PlanRequest
from cq.cost.l1 import L1
from cq.laws.drift import drifting_maps, statistics_of
from cq.schedule.threshold import Threshold, refreshes, relative_change, within_budget
from cq.schedule.uniform_from_end import UniformFromEnd

changes = st.lists(st.integers(0, 40).map(lambda n: n / 8), min_size=1, max_size=30)  # sums of these are exact


def test_refreshes_by_hand() -> None:
    assert refreshes([0.0, 1.0, 1.0, 3.0, 0.5, 0.5, 1.0], 2.0) == (0, 2, 3, 6)
    assert refreshes([0.0, 1.0, 1.0], 100.0) == (0,)


@settings(max_examples=100, deadline=None)
@given(changes, st.integers(1, 12))
def test_the_budget_is_kept_and_a_smaller_threshold_would_break_it(change: list[float], num: int) -> None:
    calls = within_budget(change, num)
    assert len(calls) <= num
    assert calls[0] == 0
    ends = [(i, j) for i in range(len(change)) for j in range(i + 1, len(change) + 1)]
    finer = {refreshes(change, sum(change[i:j])) for i, j in ends if sum(change[i:j]) > 0}
    best = max((len(c) for c in finer if len(c) <= num), default=1)
    assert len(calls) >= best or sum(change) == 0


def test_the_change_is_relative_to_the_map_before() -> None:
    maps = drifting_maps(5, seed=0)
    found = relative_change(statistics_of(maps, window=2))
    for t in range(1, 5):
        assert found[t] == pytest.approx(float((maps[t] - maps[t - 1]).abs().sum() / maps[t - 1].abs().sum()))
    assert found[0] == 0


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
def test_a_plan_has_no_more_refreshes_than_the_uniform_grid(interval: int) -> None:
    statistics = statistics_of(drifting_maps(12, seed=1), window=3)
    request = PlanRequest(num_calls=12, cost=L1(), statistics=statistics)
    schedule = Threshold(interval=interval, threshold=None).plan(request)
    assert len(schedule.refresh_calls) <= ceil(12 / interval)
    fixed = Threshold(interval=interval, threshold=1e9).plan(request)
    assert fixed.refresh_calls == (0,)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("inf")])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.threshold="):
        Threshold(interval=2, threshold=threshold)


def test_foras_grid_is_anchored_at_the_end() -> None:
    request = PlanRequest(num_calls=50, cost=L1())
    calls = UniformFromEnd(interval=3).plan(request).refresh_calls
    assert calls[:3] == (0, 1, 4)  # counted down: 49 is the first step, 48 a multiple of 3
    assert calls[-1] == 49
    assert UniformFromEnd(interval=1).plan(request).refresh_calls == tuple(range(50))
    assert torch.tensor(calls).diff()[1:].eq(3).all()
