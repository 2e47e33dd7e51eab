"""Precision and recall the slow way: one pair of points at a time, as arXiv:1904.06991 writes them down."""

from collections.abc import Sequence
from math import dist

Point = Sequence[float]


def in_manifold(point: Point, centres: Sequence[Point], *, k: int) -> bool:
    """f(point, centres) of Eq. 1: within the distance of any centre to its k-th nearest other centre."""
    for i, centre in enumerate(centres):
        others = sorted(dist(centre, other) for j, other in enumerate(centres) if j != i)
        if dist(point, centre) <= others[k - 1]:
            return True
    return False


def share_in_manifold(points: Sequence[Point], centres: Sequence[Point], *, k: int) -> float:
    """Eq. 2: precision of samples and data, recall of data and samples."""
    return sum(in_manifold(point, centres, k=k) for point in points) / len(points)
