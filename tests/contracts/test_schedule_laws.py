"""The laws of planners and costs, for every yaml of their groups."""

import json
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from pathlib import Path

import pytest
import torch

from cq.core.artifacts import CacheSchedule, TrajectoryStatistics
from cq.core.contracts import Cost, PlanRequest, ReadsStatistics, SchedulePlanner
from cq.cost.l1 import L1
from cq.schedule.from_file import FromFile
from cq.schedule.plain_json import write_plain
from tests.choices import built, names
from tests.oracles.pairwise import drifting_maps, statistics_of

# calls of a trajectory and interval; 51 calls are those of PLMS in 50 steps
BUDGETS = [(50, 5), (51, 5), (40, 6), (20, 20), (20, 1), (2, 2)]
ONE_MORE = ("uniform_from_end",)  # its grid is anchored at the last call, and call 0 need not be on it
planners = pytest.mark.parametrize("name", names("schedule"))

Planned = Callable[[str, int, int], tuple[SchedulePlanner, PlanRequest]]


def statistics(num_calls: int, window: int) -> TrajectoryStatistics:
    return statistics_of(drifting_maps(num_calls, seed=num_calls), window=window)


def request(planner: SchedulePlanner, num_calls: int, *, beyond: int = 0) -> PlanRequest:
    """With statistics that go just as far back as the planner says, or `beyond`."""
    if not isinstance(planner, ReadsStatistics):
        return PlanRequest(num_calls=num_calls, cost=L1())
    window = planner.reach(num_calls) + beyond
    return PlanRequest(num_calls=num_calls, cost=L1(), statistics=statistics(num_calls, window))


@pytest.fixture
def feasible(tmp_path: Path) -> Callable[[str], list[tuple[SchedulePlanner, int, int]]]:
    """Planner, calls and interval, wherever its own check lets them through."""

    def of(name: str) -> list[tuple[SchedulePlanner, int, int]]:
        found = []
        for num_calls, interval in BUDGETS:
            path = tmp_path / f"{num_calls}.json"
            path.write_text(json.dumps(list(range(0, num_calls, interval))))
            planner = built("schedule", name, interval=interval, path=str(path))
            assert isinstance(planner, SchedulePlanner)
            try:
                planner.check(num_calls)
            except ValueError:
                continue
            found.append((planner, num_calls, interval))
        assert len(found) >= 2
        return found

    return of


Feasible = Callable[[str], list[tuple[SchedulePlanner, int, int]]]


@planners
def test_what_passes_the_check_is_planned_and_starts_with_a_refresh(name: str, feasible: Feasible) -> None:
    for planner, num_calls, _ in feasible(name):
        schedule = planner.plan(request(planner, num_calls))
        calls = schedule.refresh_calls
        assert schedule.num_calls == num_calls
        assert calls[0] == 0
        assert all(type(call) is int for call in calls)
        assert all(a < b < num_calls for a, b in pairwise(calls))
        assert schedule.phases == ()  # whose it is to say


@planners
def test_a_schedule_survives_its_artefact_and_plain_json(name: str, feasible: Feasible, tmp_path: Path) -> None:
    for index, (planner, num_calls, _) in enumerate(feasible(name)):
        schedule = planner.plan(request(planner, num_calls))
        folder = tmp_path / str(index)
        folder.mkdir()
        schedule.save(folder)
        assert CacheSchedule.load(folder) == schedule
        assert CacheSchedule.load(folder).digest == schedule.digest
        blind = PlanRequest(num_calls=num_calls, cost=L1())
        assert FromFile(path=str(folder)).plan(blind) == schedule
        write_plain(schedule, tmp_path / "plain.json")
        assert FromFile(path=str(tmp_path / "plain.json")).plan(blind).refresh_calls == schedule.refresh_calls


@planners
def test_no_more_refreshes_than_the_budget_allows(name: str, feasible: Feasible) -> None:
    counted = 0
    for planner, num_calls, interval in feasible(name):
        if hasattr(planner, "interval"):
            counted += 1
            schedule = planner.plan(request(planner, num_calls))
            assert len(schedule.refresh_calls) <= ceil(num_calls / interval) + (name in ONE_MORE)
            assert schedule.interval == interval
    assert counted >= 2 or not hasattr(feasible(name)[0][0], "interval")


@planners
def test_a_plan_is_a_function_of_the_request(name: str, feasible: Feasible) -> None:
    for planner, num_calls, _ in feasible(name):
        assert planner.plan(request(planner, num_calls)) == planner.plan(request(planner, num_calls))


@planners
def test_a_planner_looks_no_further_back_than_it_says(name: str, feasible: Feasible) -> None:
    for planner, num_calls, _ in feasible(name):
        if isinstance(planner, ReadsStatistics):
            assert 0 <= planner.reach(num_calls) < num_calls
            assert 1 <= planner.refreshes(num_calls) <= num_calls
            assert planner.plan(request(planner, num_calls, beyond=3)) == planner.plan(request(planner, num_calls))


def test_some_planners_read_statistics_and_some_do_not(feasible: Feasible) -> None:
    """So that the two halves of these laws are not empty."""
    reads = {name: isinstance(feasible(name)[0][0], ReadsStatistics) for name in names("schedule")}
    assert reads["dps"]
    assert reads["threshold"]
    assert not reads["uniform"]


@pytest.mark.parametrize("name", names("cost"))
@pytest.mark.parametrize("window", [0, 3, 11])
def test_a_cost_is_zero_for_a_fresh_map_and_infinite_before_the_first(name: str, window: int) -> None:
    cost: Cost = built("cost", name)
    given = statistics(12, window)
    before = given.digest
    distance_TD = cost.distances(given)
    assert given.digest == before
    assert distance_TD.dtype == torch.float64
    assert distance_TD.shape == (12, window + 1)
    exists_TD = torch.arange(12)[:, None] >= torch.arange(window + 1)[None]
    assert (distance_TD[:, 0] == 0).all()
    assert distance_TD[~exists_TD].isposinf().all()
    assert distance_TD[exists_TD].isfinite().all()
    assert (distance_TD[exists_TD] >= 0).all()


@pytest.mark.parametrize("name", names("cost"))
def test_a_cost_of_a_pair_does_not_depend_on_the_window(name: str) -> None:
    cost: Cost = built("cost", name)
    torch.testing.assert_close(cost.distances(statistics(12, 11))[:, :4], cost.distances(statistics(12, 3)))
