"""Uniform and no cache."""

from collections.abc import Callable

import pytest

from cq.core.contracts import PlanRequest
from cq.schedule.none import NoCache
from cq.schedule.uniform import Uniform

BlindRequest = Callable[[int], PlanRequest]


@pytest.mark.parametrize(
    ("num_calls", "interval", "expected"),
    [(10, 3, (0, 3, 6, 9)), (9, 3, (0, 3, 6)), (4, 1, (0, 1, 2, 3)), (4, 9, (0,)), (51, 25, (0, 25, 50))],
)
def test_uniform_refreshes_every_interval_calls(
    num_calls: int, interval: int, expected: tuple[int, ...], blind_request: BlindRequest
) -> None:
    assert Uniform(interval=interval).plan(blind_request(num_calls)).refresh_calls == expected


def test_no_cache_refreshes_every_call_and_names_no_interval(blind_request: BlindRequest) -> None:
    schedule = NoCache().plan(blind_request(5))
    assert (schedule.refresh_calls, schedule.interval) == ((0, 1, 2, 3, 4), None)


def test_uniform_of_interval_one_refreshes_where_no_cache_does(blind_request: BlindRequest) -> None:
    request = blind_request(6)
    assert Uniform(interval=1).plan(request).refresh_calls == NoCache().plan(request).refresh_calls


def test_interval_zero_and_a_trajectory_without_calls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule.interval=0"):
        Uniform(interval=0)
    for planner in (Uniform(interval=2), NoCache()):
        with pytest.raises(ValueError, match="num_calls=0"):
            planner.check(0)
