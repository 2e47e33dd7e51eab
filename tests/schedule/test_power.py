"""DeepCache's two non-uniform schedules give the numbers of its own code."""

from collections.abc import Callable

import pytest

from cq.core.contracts import PlanRequest
from cq.schedule.centred_power import CentredPower
from cq.schedule.power import Power

BlindRequest = Callable[[int], PlanRequest]


def test_power_gives_deepcaches_numbers(blind_request: BlindRequest) -> None:
    schedule = Power(interval=20, exponent=1.5).plan(blind_request(250))
    assert schedule.refresh_calls == (0, 5, 15, 27, 42, 59, 78, 98, 120, 144, 168, 194, 221)


@pytest.mark.parametrize(
    ("num_calls", "interval", "exponent", "expected"),
    [
        (50, 5, 1.4, (0, 5, 9, 13, 17, 21, 26, 31, 37, 43)),
        (50, 5, 1.2, (0, 5, 10, 14, 18, 22, 27, 32, 38, 44)),
        (100, 10, 1.2, (0, 9, 15, 23, 33, 43, 53, 64, 76, 87)),
    ],
)
def test_centred_power_gives_deepcaches_numbers(
    num_calls: int, interval: int, exponent: float, expected: tuple[int, ...], blind_request: BlindRequest
) -> None:
    planner = CentredPower(interval=interval, exponent=exponent, centre=15)
    planner.check(num_calls)
    assert planner.plan(blind_request(num_calls)).refresh_calls == expected


def test_power_of_exponent_one_is_uniform_where_the_interval_divides_the_calls(blind_request: BlindRequest) -> None:
    assert Power(interval=5, exponent=1.0).plan(blind_request(20)).refresh_calls == (0, 5, 10, 15)


def test_power_groups_never_shorten_above_exponent_one_and_never_exceed_the_budget(blind_request: BlindRequest) -> None:
    for interval in range(1, 40):
        schedule = Power(interval=interval, exponent=1.5).plan(blind_request(40))
        assert len(schedule.refresh_calls) <= -(-40 // interval)
        assert schedule.refresh_calls[0] == 0


def test_centred_power_plans_whatever_it_checked(blind_request: BlindRequest) -> None:
    planned = 0
    for num_calls in range(16, 120, 7):
        for interval in range(1, 25):
            planner = CentredPower(interval=interval, exponent=1.4, centre=15)
            try:
                planner.check(num_calls)
            except ValueError:
                continue
            schedule = planner.plan(blind_request(num_calls))
            assert len(schedule.refresh_calls) == -(-num_calls // interval)
            planned += 1
    assert planned > 100  # else this says nothing


def centred_by_hand(num_calls: int, num_groups: int, p: float, centre: int) -> list[int]:
    """DeepCache's formula for one exponent, in Python's own complex numbers."""
    left, right = complex(-centre) ** (1 / p), complex(num_calls - centre) ** (1 / p)
    points = [left + (right - left) * i / num_groups for i in range(num_groups + 1)]
    return [0] + [centre + u for u in sorted({int((v**p).real) for v in points})[1:-1]]


def test_centred_power_lowers_the_exponent_in_steps_of_two_hundredths(blind_request: BlindRequest) -> None:
    lowered = 0
    for num_calls in (50, 60, 80, 100, 150, 250):
        for interval in range(2, 26):
            num_groups = -(-num_calls // interval)
            tries = [centred_by_hand(num_calls, num_groups, 1.4 - 0.02 * i, 15) for i in range(20)]
            fits = [i for i, calls in enumerate(tries) if len(calls) == num_groups]
            if fits:
                schedule = CentredPower(interval=interval, exponent=1.4, centre=15).plan(blind_request(num_calls))
                assert list(schedule.refresh_calls) == tries[fits[0]]
                lowered += fits[0] > 0
    assert lowered > 0  # else this says nothing


def test_centred_power_is_refused_where_no_exponent_gives_the_number_of_refreshes() -> None:
    with pytest.raises(ValueError, match=r"schedule.exponent=1.4: no exponent"):
        CentredPower(interval=1, exponent=1.4, centre=15).check(50)


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("exponent", lambda: Power(interval=5, exponent=0.0)),
        ("exponent", lambda: Power(interval=5, exponent=float("nan"))),
        ("interval", lambda: Power(interval=0, exponent=1.5)),
        ("exponent", lambda: CentredPower(interval=5, exponent=1.0, centre=15)),
        ("centre", lambda: CentredPower(interval=5, exponent=1.4, centre=0)),
        ("centre", lambda: CentredPower(interval=5, exponent=1.4, centre=15).check(15)),
    ],
)
def test_values_out_of_range_are_refused_by_name(key: str, make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=f"schedule.{key}="):
        make()
