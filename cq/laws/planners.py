"""The laws of planners and of costs."""

import json
from itertools import pairwise
from math import ceil
from pathlib import Path
from tempfile import mkdtemp

import torch

from cq.core.artifacts import CacheSchedule, ReuseSketches, TrajectoryStatistics
from cq.core.planning import PlanRequest, PlansLate, ReadsSketches, ReadsStatistics, RunsTrials, SchedulePlanner
from cq.cost.l1 import L1
from cq.laws.drift import drifting_maps, statistics_of
from cq.laws.law import Make, Untried, World, hold
from cq.schedule.from_file import FromFile
from cq.schedule.members import members
from cq.schedule.plain_json import write_plain

# calls of a trajectory and interval; 51 calls are those of PLMS in 50 steps
BUDGETS = ((50, 5), (51, 5), (40, 6), (20, 20), (20, 1), (2, 2))


def statistics(num_calls: int, window: int) -> TrajectoryStatistics:
    """Of maps that drift. window: calls that it goes back."""
    return statistics_of(drifting_maps(num_calls, seed=num_calls), window=window)


def sketches(num_calls: int, window: int) -> ReuseSketches:
    """Of projections that drift with the maps. window: calls that they go back."""
    drift_TK = drifting_maps(num_calls, seed=num_calls).double().flatten(1)[:, :6]
    sketch_TDK = torch.zeros(num_calls, window + 1, 6, dtype=torch.float64)
    for d in range(1, window + 1):
        sketch_TDK[d:, d] = drift_TK[d:] - drift_TK[:-d]
    return ReuseSketches(trajectories=2, sketch_TDK=sketch_TDK)


def trial(refresh_calls: tuple[int, ...], *, first: int, count: int) -> torch.Tensor:
    """Errors of images to which each refresh is worth something of its own, as any trial has them."""
    worth = [torch.rand(100, generator=torch.Generator().manual_seed(image)) for image in range(first, first + count)]
    return 1.0 / torch.stack(worth)[:, list(refresh_calls)].double().sum(1)


def reaches(planner: SchedulePlanner, num_calls: int) -> list[tuple[str, int]]:
    """How far back it, and each planner inside it, says that it looks; by the method that says so."""
    found = []
    for each in members(planner):
        found += [("reach", each.reach(num_calls))] if isinstance(each, ReadsStatistics) else []
        found += [("probes", each.probes(num_calls).reach)] if isinstance(each, ReadsSketches) else []
    return found


def request(planner: SchedulePlanner, num_calls: int, *, beyond: int = 0) -> PlanRequest:
    """With what the planner says that it reads, going just as far back as it says, or `beyond`."""
    asked = reaches(planner, num_calls)
    reads, probes = ([reach for name, reach in asked if name == kind] for kind in ("reach", "probes"))
    return PlanRequest(
        num_calls=num_calls, cost=L1(),
        statistics=statistics(num_calls, max(reads) + beyond) if reads else None,
        sketches=sketches(num_calls, max(probes) + beyond) if probes else None,
        trial=trial if isinstance(planner, RunsTrials) else None,
    )  # fmt: skip


def feasible(make: Make, world: World) -> list[tuple[SchedulePlanner, int, int]]:
    """Planner, calls and interval, wherever its own check lets them through."""
    found = []
    for num_calls, interval in BUDGETS:
        path = world.folder / f"{num_calls}_{interval}.json"
        path.write_text(json.dumps(list(range(0, num_calls, interval))))
        planner: SchedulePlanner = make(interval=interval, path=str(path))
        try:
            planner.check(num_calls)
        except ValueError:
            continue
        found.append((planner, num_calls, interval))
    told = f"check refuses all but {len(found)} of {len(BUDGETS)} usual budgets (calls, interval): {BUDGETS}."
    hold(len(found) >= 2, f"{told} Refuse only what no schedule can exist for.")
    return found


def a_plan_starts_with_a_refresh_and_goes_up(make: Make, world: World) -> None:
    for planner, num_calls, interval in feasible(make, world):
        schedule = planner.plan(request(planner, num_calls))
        calls, where = schedule.refresh_calls, f"plan of {num_calls} calls, interval {interval}"
        hold(schedule.num_calls == num_calls, f"{where}: num_calls={schedule.num_calls}. Take it from the request.")
        hold(calls[:1] == (0,), f"{where}: refreshes at {calls[:5]}. Begin at call 0, before which nothing is cached.")
        hold(all(type(call) is int for call in calls), f"{where}: holds other numbers than int. Convert them by int().")
        goes_up = all(a < b < num_calls for a, b in pairwise(calls))
        hold(goes_up, f"{where}: refreshes at {calls}. Sort them, each once, and all below {num_calls}.")
        hold(schedule.phases == (), f"{where}: names phases={schedule.phases}. Leave them to the cache strategy.")


def a_plan_survives_its_file_and_plain_json(make: Make, world: World) -> None:
    for planner, num_calls, _ in feasible(make, world):
        schedule = planner.plan(request(planner, num_calls))
        folder = Path(mkdtemp(dir=world.folder))
        schedule.save(folder)
        write_plain(schedule, folder / "plain.json")
        blind = PlanRequest(num_calls=num_calls, cost=L1())
        back = (CacheSchedule.load(folder), FromFile(path=str(folder)).plan(blind))
        plain = FromFile(path=str(folder / "plain.json")).plan(blind)
        same = back == (schedule, schedule) and plain.refresh_calls == schedule.refresh_calls
        hold(same, f"plan of {num_calls} calls: differs when read back. Return a plain CacheSchedule of JSON's values.")


def no_more_refreshes_than_the_interval_allows(make: Make, world: World) -> None:
    """A grid of that interval, wherever it is anchored, and call 0."""
    for planner, num_calls, interval in feasible(make, world):
        if not hasattr(planner, "interval"):
            raise Untried("has no field `interval`")
        schedule = planner.plan(request(planner, num_calls))
        most, found = ceil(num_calls / interval) + 1, len(schedule.refresh_calls)
        where = f"plan of {num_calls} calls, interval {interval}"
        hold(found <= most, f"{where}: {found} refreshes. Plan at most {most}, or comparisons at equal cost are none.")
        hold(schedule.interval == interval, f"{where}: says interval={schedule.interval}. Say the one that was asked.")


def a_plan_is_a_function_of_the_request(make: Make, world: World) -> None:
    for planner, num_calls, _ in feasible(make, world):
        same = planner.plan(request(planner, num_calls)) == planner.plan(request(planner, num_calls))
        hold(same, "plan gives two schedules for one request. Draw from a generator that a field seeds.")


def a_planner_looks_no_further_back_than_it_says(make: Make, world: World) -> None:
    for planner, num_calls, _ in feasible(make, world):
        if not isinstance(planner, PlansLate):
            raise Untried("reads nothing that is computed")
        refreshes = planner.refreshes(num_calls)
        asked = reaches(planner, num_calls)
        for name, reach in asked:
            hold(0 <= reach < num_calls, f"{name}({num_calls}): {reach} must lie in 0..{num_calls - 1}. Bound it.")
        hold(1 <= refreshes <= num_calls, f"refreshes({num_calls})={refreshes}: must lie in 1..{num_calls}. Bound it.")
        same = planner.plan(request(planner, num_calls, beyond=3)) == planner.plan(request(planner, num_calls))
        hold(same, f"reads further back than it says: {asked} of {num_calls} calls. Raise it to what it looks at.")


PLANNER = (
    a_plan_starts_with_a_refresh_and_goes_up, a_plan_survives_its_file_and_plain_json,
    no_more_refreshes_than_the_interval_allows, a_plan_is_a_function_of_the_request,
    a_planner_looks_no_further_back_than_it_says,
)  # fmt: skip


def zero_for_a_fresh_map_and_infinite_before_the_first(make: Make, world: World) -> None:
    for window in (0, 3, 11):
        given = statistics(12, window)
        before = given.digest
        distance_TD = make().distances(given)
        hold(given.digest == before, "distances changes the statistics. Work on copies.")
        told = f"distances: {distance_TD.dtype}, {tuple(distance_TD.shape)}"
        good = (distance_TD.dtype, distance_TD.shape) == (torch.float64, (12, window + 1))
        hold(good, f"{told}. Return float64 [T, D], here {(12, window + 1)}.")
        exists_TD = torch.arange(12)[:, None] >= torch.arange(window + 1)[None]
        hold((distance_TD[:, 0] == 0).all(), "a fresh map costs something. Set column 0 to zero.")
        hold(distance_TD[~exists_TD].isposinf().all(), "distances of calls before the first. Set them to +inf.")
        real = distance_TD[exists_TD]
        hold((real.isfinite() & (real >= 0)).all(), "negative or no finite distances. A distance is neither.")


def a_pair_does_not_depend_on_the_window(make: Make, world: World) -> None:
    wide, narrow = (make().distances(statistics(12, window))[:, :4] for window in (11, 3))
    same = torch.allclose(wide, narrow, rtol=1e-7, atol=1e-7)
    hold(same, "the distance of a pair changes with how far back the statistics go. Scale by what T calls say alone.")


COST = (zero_for_a_fresh_map_and_infinite_before_the_first, a_pair_does_not_depend_on_the_window)
