"""The guard: the best of candidates on images set aside, moved, and taken only where it is confirmed on others."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import CacheSchedule
from cq.core.planning import PlanRequest
from cq.cost.l1 import L1
from cq.schedule.bounds import check_num_calls
from cq.schedule.guarded import Guarded

CALLS, CHOOSING, CONFIRMING = 12, 8, 6
UNIFORM, OTHER = (0, 4, 8), (0, 2, 6)


@dataclass(frozen=True)
class Given:
    """A candidate that plans what it is given."""

    calls: tuple[int, ...]

    def check(self, num_calls: int) -> None:
        check_num_calls(num_calls)

    def plan(self, request: PlanRequest) -> CacheSchedule:
        return CacheSchedule(num_calls=request.num_calls, refresh_calls=self.calls, planner="given", interval=None)


def planned(error: Callable[[tuple[int, ...], int], float], *, moves: int = 0, given: tuple[int, ...] = OTHER) -> (
    tuple[CacheSchedule, list[tuple[tuple[int, ...], int, int]]]
):  # fmt: skip
    """The guard's schedule, and all trials. error: of a schedule on an image."""
    trials = []

    def trial(refresh_calls: tuple[int, ...], *, first: int, count: int) -> Tensor:
        trials.append((refresh_calls, first, count))
        return torch.tensor([error(refresh_calls, image) for image in range(first, first + count)]).double()

    guard = Guarded(
        interval=4, candidates={"given": Given(given)}, num_choosing=CHOOSING, num_confirming=CONFIRMING, moves=moves
    )
    guard.check(CALLS)
    schedule = guard.plan(PlanRequest(num_calls=CALLS, cost=L1(), trial=trial))
    assert sum(count for _, _, count in trials) <= guard.trials(CALLS)
    return schedule, trials


def test_a_candidate_that_wins_everywhere_is_taken_and_each_schedule_runs_once_on_each_image() -> None:
    schedule, trials = planned(lambda calls, image: 0.1 * image + (0.5 if calls == OTHER else 0.7))
    assert (schedule.refresh_calls, schedule.planner, schedule.interval) == (OTHER, "guarded", 4)
    both = [
        (calls, first, count) for first, count in ((0, CHOOSING), (CHOOSING, CONFIRMING)) for calls in (UNIFORM, OTHER)
    ]
    assert sorted(trials) == sorted(both)


@pytest.mark.parametrize("told", ["ties", "loses on other images", "wins on other images by chance only"])
def test_uniform_is_taken_where_the_best_is_not_confirmed(told: str) -> None:
    def error(calls: tuple[int, ...], image: int) -> float:
        if calls == UNIFORM or told == "ties":
            return 1.0
        if image < CHOOSING:
            return 0.5
        return 1.1 if told.startswith("loses") else (0.5 if image == CHOOSING else 1.0)

    assert planned(error)[0] == Given(UNIFORM).plan(PlanRequest(num_calls=CALLS, cost=L1())).__class__(
        num_calls=CALLS, refresh_calls=UNIFORM, planner="uniform", interval=4
    )


def test_moves_go_downhill_to_where_no_single_move_helps_and_stop_when_they_are_spent() -> None:
    best = (0, 3, 7)

    def far(calls: tuple[int, ...], image: int) -> float:
        return 1.0 + sum(abs(a - b) for a, b in zip(calls, best, strict=True))

    assert planned(far, moves=40)[0].refresh_calls == best
    assert len({calls for calls, first, _ in planned(far, moves=3)[1] if first == 0}) == 2 + 3


def test_a_candidate_with_more_refreshes_is_left_out() -> None:
    schedule, trials = planned(lambda calls, image: 1.0 / len(calls), given=(0, 3, 6, 9))
    assert schedule.refresh_calls == UNIFORM
    assert {calls for calls, _, _ in trials} == {UNIFORM}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"moves": -1}, r"moves=-1: must not be negative\. 0 only chooses"),
        ({"num_confirming": 1}, r"one image has no interval\. 32 is usual"),
        ({"candidates": {"uniform": Given(UNIFORM)}}, r"candidates\.uniform: is always among them\. Remove it"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(fields: dict[str, object], told: str) -> None:
    usual: dict[str, object] = {
        "interval": 4, "candidates": {}, "num_choosing": 8, "num_confirming": 8, "moves": 0, **fields
    }  # fmt: skip
    with pytest.raises(ValueError, match=told):
        Guarded(**usual)  # type: ignore[arg-type]
