"""Optimal grouping of a trajectory by dynamic programming; pure numpy, one solve for every number of groups.

Legend of shape suffixes: T call, D distance in calls, S start of a group, L length of a group, N calls covered,
I candidate start, K groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupTable:
    """The cheapest grouping for every number of groups at once.

    cost_K: float64 [max_groups + 1], least cost with exactly K groups; +inf where K groups do not fit.
    start_KN: int32 [max_groups + 1, T + 1], where the last of K groups over the first n calls starts; -1 where none.
    """

    cost_K: npt.NDArray[np.float64]
    start_KN: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        self.cost_K.setflags(write=False)
        self.start_KN.setflags(write=False)

    @property
    def num_calls(self) -> int:
        """T, the calls that were grouped."""
        return int(self.start_KN.shape[1]) - 1

    def refresh_calls(self, num_groups: int) -> tuple[int, ...]:
        """The first call of each group; ties go to the smallest start, last group first.

        Raises ValueError where `num_groups` do not fit or were not solved for.
        """
        if not 0 < num_groups < len(self.cost_K) or not np.isfinite(self.cost_K[num_groups]):
            feasible = [int(k) for k in np.flatnonzero(np.isfinite(self.cost_K))]
            span = f"{feasible[0]} to {feasible[-1]}" if feasible else "none"
            raise ValueError(
                f"num_groups={num_groups}: no grouping of {self.num_calls} calls within the bounds was found. "
                f"Numbers of groups in this table: {span}."
            )
        starts: list[int] = []
        end = self.num_calls
        for k in range(num_groups, 0, -1):
            end = int(self.start_KN[k, end])
            starts.append(end)
        return tuple(reversed(starts))


def group_costs(distance_TD: npt.NDArray[np.float64], *, max_group: int) -> npt.NDArray[np.float64]:
    """float64 [T, max_group + 1]: entry (s, l) is the cost of the group s..s+l-1, standing on the map of call s.

    The sum over t of the distance between calls s and t. Entries that run past the last call are meaningless.
    """
    num_calls = len(distance_TD)
    s = np.arange(num_calls)[:, None]
    d = np.arange(max_group)[None, :]
    inside = s + d < num_calls
    along = np.where(inside, distance_TD[np.where(inside, s + d, 0), d], 0.0)
    return np.concatenate([np.zeros((num_calls, 1)), np.cumsum(along, axis=1)], axis=1)


def optimal_groups(
    distance_TD: npt.ArrayLike, *, min_group: int, max_group: int, max_groups: int | None = None
) -> GroupTable:
    """The cheapest split of T calls into K consecutive groups, for every K up to `max_groups` (None: all that fit).

    The dynamic programming of CacheQuant's DPS (arXiv:2503.01323). Deviations: unreachable cells are +inf instead
    of zero, `max_group` is clamped to T, and each distance is read once (prefix sums), so a solve takes
    O(T K (max_group - min_group)).

    distance_TD: float64 [T, D], column d is the cost at call t of the map of call t - d; D >= min(max_group, T).
    Raises ValueError for a distance that is not finite, bounds out of order or too narrow a band.
    """
    distance = np.asarray(distance_TD, dtype=np.float64)
    num_calls, band = distance.shape
    hi = min(max_group, num_calls)
    lo = min_group
    if not 1 <= lo <= max_group:
        raise ValueError(f"min_group={lo}, max_group={max_group}: the lengths of a group start at 1 and are in order.")
    if band < hi:
        raise ValueError(
            f"distance_TD has {band} columns: groups of up to {hi} calls need {hi}. Widen the band or lower max_group."
        )
    exists_TD = np.arange(num_calls)[:, None] >= np.arange(hi)[None, :]
    if not np.isfinite(distance[:, :hi][exists_TD]).all():
        raise ValueError(
            "distance_TD holds a distance that is not finite: the calibration pass overflowed or its band has holes. "
            "Check the calibration statistics."
        )
    top = num_calls // lo if max_groups is None else min(max_groups, num_calls // lo)
    cost_KN = np.full((top + 1, num_calls + 1), np.inf)
    cost_KN[0, 0] = 0.0
    start_KN = np.full((top + 1, num_calls + 1), -1, dtype=np.int32)

    if top > 0:  # else not even one group fits (lo > T), and hi < lo leaves no candidate
        end_N = np.arange(num_calls + 1)
        # candidates in rising order of start: argmin takes the first, so ties go to the smallest start
        start_NI = end_N[:, None] + np.arange(-hi, -lo + 1)[None, :]
        exists_NI = start_NI >= 0
        from_NI = np.where(exists_NI, start_NI, 0)
        length_NI = end_N[:, None] - start_NI
        group_NI = np.where(exists_NI, group_costs(distance, max_group=hi)[from_NI, length_NI], np.inf)
        for k in range(1, top + 1):
            total_NI = cost_KN[k - 1][from_NI] + group_NI
            best_N = total_NI.argmin(axis=1)
            cost_KN[k] = total_NI[end_N, best_N]
            start_KN[k] = np.where(np.isfinite(cost_KN[k]), start_NI[end_N, best_N], -1)

    cost_K = cost_KN[:, num_calls].copy()
    return GroupTable(cost_K=cost_K, start_KN=start_KN)
