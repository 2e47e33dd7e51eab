"""Forecasts against polynomials, and against the regression written out."""

import numpy as np
import pytest

from cq.predict.chebyshev import Chebyshev
from cq.predict.taylor import Taylor


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_without_a_ridge_it_is_exact_on_polynomials_of_its_degree(degree: int) -> None:
    points = (40, 30, 24, 9, 0)
    weights = Chebyshev(degree=degree, ridge=0, depth=9).weights(47, points)
    for power in range(degree + 1):
        assert sum(w * p**power for w, p in zip(weights, points, strict=True)) == pytest.approx(47**power)


def test_through_as_many_refreshes_as_coefficients_it_is_newtons_form() -> None:
    points = (12, 7, 4)
    found = Chebyshev(degree=4, ridge=0, depth=9).weights(15, points)
    assert found == pytest.approx(Taylor(order=2, differences="divided").weights(15, points))


def test_a_ridge_leaves_constants_alone_and_shrinks_the_rest_to_the_mean() -> None:
    points = (40, 30, 24, 9, 0)
    for ridge in (0.01, 1.0, 1e9):
        assert sum(Chebyshev(degree=3, ridge=ridge, depth=9).weights(47, points)) == pytest.approx(1)
    assert Chebyshev(degree=3, ridge=1e12, depth=9).weights(47, points) == pytest.approx([0.2] * 5, abs=1e-6)


def test_its_weights_are_the_regressions_prediction() -> None:
    points, values = np.array([20, 13, 8, 3, 0]), np.array([1.0, -2.0, 0.5, 3.0, 1.5])
    time = 2 * np.array([*points, 24]) / 24 - 1
    rows = np.stack([np.ones(6), time, 2 * time**2 - 1], axis=1)
    lines = np.concatenate([rows[:5], np.sqrt(0.3) * np.eye(3)[1:]])  # a ridge is two more observations of zero
    coefficients = np.linalg.lstsq(lines, np.concatenate([values, [0, 0]]), rcond=None)[0]
    weights = Chebyshev(degree=2, ridge=0.3, depth=9).weights(24, tuple(map(int, points)))
    assert np.dot(weights, values) == pytest.approx(rows[5] @ coefficients)


def test_what_cannot_work_is_refused() -> None:
    for fields, told in (({"degree": -1}, "degree=-1"), ({"ridge": -1.0}, "ridge=-1"), ({"depth": 0}, "depth=0")):
        with pytest.raises(ValueError, match=told):
            Chebyshev(**{"degree": 2, "ridge": 0.1, "depth": 9, **fields})  # type: ignore[arg-type]
