"""DPS: the planner around the dynamic programming."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cq.core.contracts import PlanRequest, SchedulePlanner
from cq.schedule.dps import DPS
from cq.schedule.uniform import Uniform
from tests.oracles.grouping import best_groupings, grouping_cost, random_distances

RequestFor = Callable[[npt.NDArray[np.float64]], PlanRequest]


def dps(interval: int, *, groups: int | None = None, lo: int | None = None, hi: int | None = None) -> DPS:
    return DPS(interval=interval, num_groups=groups, min_group=lo, max_group=hi)


@pytest.mark.parametrize(
    ("num_calls", "interval", "expected"),
    [
        (250, 5, (50, 3, 10)),
        (250, 10, (25, 5, 20)),
        (250, 15, (17, 8, 30)),
        (250, 20, (13, 10, 40)),
        (100, 2, (50, 1, 4)),
        (100, 10, (10, 5, 20)),
        (12, 12, (1, 6, 12)),
    ],
)
def test_default_bounds_are_the_papers(num_calls: int, interval: int, expected: tuple[int, int, int]) -> None:
    bounds = dps(interval).bounds(num_calls)
    assert (bounds.num_groups, bounds.min_group, bounds.max_group) == expected


def test_plms_takes_its_number_of_groups_from_the_configuration() -> None:
    assert dps(5).bounds(51).num_groups == 11
    assert dps(5, groups=10).bounds(51).num_groups == 10


def test_default_bounds_are_feasible_at_every_interval_up_to_the_trajectory() -> None:
    for num_calls in range(1, 201):
        for interval in range(1, num_calls + 1):
            dps(interval).check(num_calls)


def test_plan_is_the_enumerated_optimum(request_for: RequestFor) -> None:
    distance = random_distances(12, 6, seed=0)
    schedule = dps(3).plan(request_for(distance))
    assert schedule.refresh_calls == best_groupings(distance, min_group=2, max_group=6)[4][1]
    assert (schedule.planner, schedule.interval, schedule.num_calls) == ("dps", 3, 12)


def test_plan_is_never_dearer_than_uniform_where_uniform_is_within_bounds(request_for: RequestFor) -> None:
    for seed in range(10):
        distance = random_distances(60, 12, seed=seed)
        request = request_for(distance)
        planned, uniform = dps(6).plan(request), Uniform(interval=6).plan(request)
        assert len(planned.refresh_calls) == len(uniform.refresh_calls)
        assert grouping_cost(planned.refresh_calls, distance) <= grouping_cost(uniform.refresh_calls, distance)


def test_a_jump_in_the_features_gets_a_refresh(request_for: RequestFor) -> None:
    level = np.repeat([0.0, 1.0], [7, 9])  # features stand still but for a jump at call 7
    distance = np.array([[abs(level[t] - level[t - d]) if d <= t else np.inf for d in range(8)] for t in range(16)])
    assert 7 in dps(4).plan(request_for(distance)).refresh_calls


def test_a_refresh_at_every_call_is_planned_for_interval_one(request_for: RequestFor) -> None:
    assert dps(1).plan(request_for(random_distances(5, 2, seed=1))).refresh_calls == (0, 1, 2, 3, 4)


def test_twice_the_interval_may_exceed_the_trajectory(request_for: RequestFor) -> None:
    assert dps(4).plan(request_for(random_distances(6, 6, seed=2))).longest_group <= 6


@pytest.mark.parametrize("groups", [1, 7, 12])
def test_infeasible_number_of_groups_is_refused_with_the_feasible_range(groups: int) -> None:
    with pytest.raises(ValueError, match=rf"schedule.num_groups={groups}.*between 2 and 6"):
        dps(4, groups=groups).check(12)
    dps(4, groups=6).check(12)


def test_bounds_that_no_number_of_groups_satisfies_are_refused() -> None:
    with pytest.raises(ValueError, match="No number of groups does"):
        dps(4, lo=3, hi=4).check(5)
    with pytest.raises(ValueError, match="No number of groups does"):
        dps(20, hi=3).check(250)  # the default lower bound is 10


def test_interval_above_the_trajectory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule.interval=13: exceeds the 12 calls"):
        dps(13).check(12)


def test_statistics_that_do_not_reach_far_enough_name_the_key_to_raise(request_for: RequestFor) -> None:
    with pytest.raises(ValueError, match=r"calibrate.max_interval to at least 4, or schedule.max_group to at most 7"):
        dps(4).plan(request_for(random_distances(20, 7, seed=3)))
    dps(4, hi=7).plan(request_for(random_distances(20, 7, seed=3)))


def test_wider_statistics_give_the_same_plan(request_for: RequestFor) -> None:
    wide = random_distances(30, 20, seed=4)
    assert dps(4).plan(request_for(wide)) == dps(4).plan(request_for(wide[:, :8].copy()))


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("interval", lambda: dps(0)),
        ("num_groups", lambda: dps(4, groups=0)),
        ("min_group", lambda: dps(4, lo=0)),
        ("max_group", lambda: dps(4, hi=0)),
        ("min_group", lambda: dps(4, lo=5, hi=4)),
    ],
)
def test_values_out_of_range_are_refused_by_name(key: str, make: Callable[[], DPS]) -> None:
    with pytest.raises(ValueError, match=f"schedule.{key}="):
        make()


def test_it_is_a_schedule_planner() -> None:
    assert isinstance(dps(4), SchedulePlanner)
