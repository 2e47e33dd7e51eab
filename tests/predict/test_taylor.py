"""Forecasts against polynomials, and against TaylorSeer's update rule written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from cq.core.combine import combine
from cq.predict.last import Last
from cq.predict.taylor import Taylor


def forecast(predictor: Taylor, coefficients: list[float], points: tuple[int, ...], call: int) -> float:
    total = 0.0
    for weight, point in zip(predictor.weights(call, points), points, strict=True):
        total += weight * sum(c * float(point) ** i for i, c in enumerate(coefficients))
    return total


@settings(max_examples=100, deadline=None)
@given(order=st.integers(0, 3), data=st.data())
def test_a_forecast_of_order_p_is_exact_on_polynomials_of_degree_p(order: int, data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=order, max_size=order))
    points = [20]
    for gap in gaps:
        points.append(points[-1] - gap)
    call = 20 + data.draw(st.integers(1, 9))
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=order + 1, max_size=order + 1))
    exact = sum(c * call**i for i, c in enumerate(coefficients))
    found = forecast(Taylor(order=order, differences="divided"), coefficients, tuple(points), call)
    assert found == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("differences", ["divided", "backward"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_weights_sum_to_one_also_while_the_past_is_short(order: int, differences: str) -> None:
    predictor = Taylor(order=order, differences=differences)  # type: ignore[arg-type]
    for size in range(1, predictor.depth + 1):
        weights = predictor.weights(11, (10, 7, 3, 0)[:size])
        assert len(weights) == size
        assert sum(weights) == pytest.approx(1.0)


def test_backward_differences_are_taylorseers_and_agree_with_divided_ones_at_order_1() -> None:
    points, ahead = (12, 8, 4), 3
    first, second = Taylor(order=1, differences="backward"), Taylor(order=2, differences="backward")
    assert first.weights(15, points[:2]) == pytest.approx(
        Taylor(order=1, differences="divided").weights(15, points[:2])
    )
    x = [5.0, 2.0, 1.0]  # the values at the three refreshes, newest first
    slope, before = (x[0] - x[1]) / 4, (x[1] - x[2]) / 4
    by_hand = x[0] + slope * ahead + (slope - before) / 4 * ahead**2 / 2
    assert sum(w * v for w, v in zip(second.weights(15, points), x, strict=True)) == pytest.approx(by_hand)


def test_backward_differences_of_order_2_miss_a_parabola() -> None:
    assert forecast(Taylor(order=2, differences="backward"), [0, 0, 1], (12, 8, 4), 15) != pytest.approx(225)


def test_the_last_map_comes_back_as_it_is() -> None:
    held = torch.randn(3)
    assert combine(Last().weights(4, (2,)), [held]) is held
    assert_close(combine((2.0, -1.0), [held, 3 * held]), -held)


@pytest.mark.parametrize(
    ("order", "differences", "told"),
    [(-1, "divided", "order=-1"), (5, "divided", "order=5"), (1, "forward", "differences='forward'")],
)
def test_an_impossible_forecast_is_refused(order: int, differences: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Taylor(order=order, differences=differences)  # type: ignore[arg-type]
