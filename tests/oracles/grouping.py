"""Groupings the slow way: every split written out, and the recurrence with each group summed anew."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import inf

import numpy as np
import numpy.typing as npt


def every_grouping(num_calls: int) -> Iterator[tuple[int, ...]]:
    """All 2 ** (num_calls - 1) tuples of group starts."""
    for num_groups in range(1, num_calls + 1):
        for rest in combinations(range(1, num_calls), num_groups - 1):
            yield (0, *rest)


def lengths(starts: tuple[int, ...], num_calls: int) -> list[int]:
    return [b - a for a, b in pairwise((*starts, num_calls))]


def grouping_cost(starts: tuple[int, ...], distance_TD: npt.NDArray[np.float64]) -> float:
    """Sum over groups of the distances of their calls to their first call."""
    ends = (*starts[1:], len(distance_TD))
    return sum(float(distance_TD[t, t - s]) for s, e in zip(starts, ends, strict=True) for t in range(s, e))


def best_groupings(
    distance_TD: npt.NDArray[np.float64], *, min_group: int, max_group: int
) -> dict[int, tuple[float, tuple[int, ...]]]:
    """K to (least cost, grouping); among equals the one with the smallest last start, then the last but one, ..."""
    num_calls = len(distance_TD)
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    for starts in every_grouping(num_calls):
        if all(min_group <= length <= max_group for length in lengths(starts, num_calls)):
            found = (grouping_cost(starts, distance_TD), starts)
            old = best.get(len(starts))
            if old is None or (found[0], starts[::-1]) < (old[0], old[1][::-1]):
                best[len(starts)] = found
    return best


def recurrence(
    distance_TD: npt.NDArray[np.float64], *, min_group: int, max_group: int, num_groups: int
) -> tuple[float, tuple[int, ...]]:
    """M[n, k] = min over j of M[j, k - 1] + D(j, n), as it is written down; first minimum wins."""
    num_calls = len(distance_TD)

    def group(s: int, e: int) -> float:
        return float(sum(float(distance_TD[t, t - s]) for t in range(s, e)))

    cost = {(0, 0): 0.0}
    start: dict[tuple[int, int], int] = {}
    for k in range(1, num_groups + 1):
        for n in range(1, num_calls + 1):
            least = inf
            for j in range(max(n - max_group, 0), n - min_group + 1):
                total = cost.get((j, k - 1), inf) + group(j, n)
                if total < least:
                    least, start[n, k] = total, j
            cost[n, k] = least
    starts = [start[num_calls, num_groups]]
    for k in range(num_groups - 1, 0, -1):
        starts.append(start[starts[-1], k])
    return cost[num_calls, num_groups], tuple(reversed(starts))


def random_distances(num_calls: int, width: int, *, seed: int, levels: int | None = None) -> npt.NDArray[np.float64]:
    """A distance band [T, D]; `levels` whole numbers give many ties and exact sums, None uniform numbers."""
    generator = np.random.default_rng(seed)
    shape = (num_calls, width)
    band = generator.random(shape) if levels is None else generator.integers(0, levels, shape).astype(np.float64)
    band[:, 0] = 0.0
    band[np.arange(num_calls)[:, None] < np.arange(width)[None, :]] = np.inf
    return band
