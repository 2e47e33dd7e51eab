"""Taylor: a map is extrapolated from the last refreshes instead of being reused (TaylorSeer, arXiv:2503.06923)."""

from dataclasses import dataclass
from math import factorial
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """A forecast of order p from the last p + 1 refreshes, in units of calls.

    order: p; while fewer than p + 1 refreshes lie behind, the order that they allow. differences: `divided`, Newton's
    form, which passes through every refresh and is exact on polynomials of degree p whatever the spacing; or
    `backward`, TaylorSeer's own: backward differences over the last spacing stand in for the derivatives of a Taylor
    series. The two agree for order 1; for order 2 the latter is exact on lines only.
    """

    order: int
    differences: Literal["divided", "backward"]

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise ValueError(f"predict.order={self.order}: must lie in 0..4. 1 and 2 are usual; 0 is plain reuse.")
        if self.differences not in ("divided", "backward"):
            raise ValueError(f"predict.differences={self.differences!r}: choose divided or backward.")

    @property
    def depth(self) -> int:
        """order + 1 refreshes."""
        return self.order + 1

    def weights(self, call: int, refreshes: tuple[int, ...]) -> tuple[float, ...]:
        """One weight a refresh, newest first; they sum to 1."""
        if self.differences == "divided":
            return _lagrange(call, refreshes)
        return _backward(call, refreshes)


def _lagrange(call: int, points: tuple[int, ...]) -> tuple[float, ...]:
    """The polynomial through the points, read at `call`."""
    out = []
    for i, point in enumerate(points):
        weight = 1.0
        for j, other in enumerate(points):
            if i != j:
                weight *= (call - other) / (point - other)
        out.append(weight)
    return tuple(out)


def _backward(call: int, points: tuple[int, ...]) -> tuple[float, ...]:
    """sum over i of (call - s)^i / i! times the i-th derivative, which is a difference quotient of the one before."""
    size = len(points)
    rows = [[float(i == j) for j in range(size)] for i in range(size)]  # the value at each refresh, as weights
    derivatives = [rows[0]]
    while len(rows) > 1:
        # as TaylorSeer updates its derivatives: each over the gap between the two newest refreshes it is made from
        rows = [
            [(a - b) / (points[i] - points[i + 1]) for a, b in zip(rows[i], rows[i + 1], strict=True)]
            for i in range(len(rows) - 1)
        ]
        derivatives.append(rows[0])
    ahead = call - points[0]
    return tuple(sum(ahead**i / factorial(i) * row[j] for i, row in enumerate(derivatives)) for j in range(size))
