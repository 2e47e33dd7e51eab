"""Chebyshev: a map is forecast by a polynomial in time through all refreshes, fitted by ridge regression.

After Spectrum (arXiv:2603.01623), with two differences. Time runs from the oldest refresh to the call that is forecast,
not over the whole trajectory, so that a forecast knows no number of steps; and the constant is not shrunk, so that what
does not change is forecast as it is.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Chebyshev:
    """A polynomial of degree `degree`, or of what the refreshes so far allow.

    ridge: on every coefficient but the constant, beside sums over refreshes. depth: refreshes that it looks back on,
    each of which keeps its map; for `cache=output`, whose maps are latents, all of them cost little.
    """

    degree: int
    ridge: float
    depth: int

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ValueError(f"predict.degree={self.degree}: must not be negative. 4 is usual; 0 is the mean.")
        if not 0 <= self.ridge < float("inf"):
            raise ValueError(f"predict.ridge={self.ridge}: must be finite and not negative. 0.01 is usual.")
        if self.depth < 1:
            raise ValueError(f"predict.depth={self.depth}: must be at least 1. 50 is usual.")

    def weights(self, call: int, refreshes: tuple[int, ...]) -> tuple[float, ...]:
        """One weight a refresh, newest first; they sum to 1."""
        newest, *_, oldest = (refreshes[0], *refreshes)
        if call == newest:  # whose map is at hand
            return (1.0, *[0.0] * (len(refreshes) - 1))
        time_K = 2 * (np.array([*refreshes, call], dtype=np.float64) - oldest) / (call - oldest) - 1
        basis_KP = np.polynomial.chebyshev.chebvander(time_K, min(self.degree, len(refreshes) - 1))
        seen_KP, asked_P = basis_KP[:-1], basis_KP[-1]
        shrunk_PP = self.ridge * np.diag([0.0, *[1.0] * (seen_KP.shape[1] - 1)])
        found_PK = np.linalg.solve(seen_KP.T @ seen_KP + shrunk_PP, seen_KP.T)
        return tuple(map(float, asked_P @ found_PK))
