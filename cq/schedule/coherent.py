"""Refreshes that make the errors of all reuse calls cancel: a coherent cost, minimised by moving refreshes; numpy.

A group [start, length] moves K projections of the final latent by the sum of its calls' moves, and a schedule by the
sum over its groups: signs and all, before anything is squared. So a schedule's cost is no sum of groups' costs, and
dynamic programming finds only a start for the search.
Legend: T call, D distance in calls, L length of a group, K sketch numbers, J position.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cq.schedule.optimal import optimal_groups

Floats = npt.NDArray[np.float64]
Refreshes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CoherentCost:
    """sketch_TDK: as `ReuseSketches` holds them. max_group: calls; longer groups cost infinitely much."""

    sketch_TDK: Floats
    max_group: int

    @property
    def num_calls(self) -> int:
        """T."""
        return len(self.sketch_TDK)

    @cached_property
    def moves_TLK(self) -> Floats:
        """[T, max_group + 1, K]: of the group s..s+l-1; entries that run past the last call are meaningless."""
        calls, longest = self.num_calls, self.max_group
        moves_TLK = np.zeros((calls, longest + 1, self.sketch_TDK.shape[2]))
        for s in range(calls):
            d = np.arange(min(longest, calls - s))
            moves_TLK[s, 1 : len(d) + 1] = np.cumsum(self.sketch_TDK[s + d, d], axis=0)
        return moves_TLK

    def of(self, refreshes: Refreshes) -> float:
        """The squared norm of the sum of all groups' moves; +inf where a group is too long."""
        starts, lengths = _groups(refreshes, self.num_calls)
        if lengths.max() > self.max_group:
            return float("inf")
        return float(np.square(self.moves_TLK[starts, lengths].sum(0)).sum())

    def apart(self, num_groups: int) -> Refreshes:
        """The schedule of the least sum of each group's own squared move: exact, by dynamic programming."""
        own_TL = np.square(self.moves_TLK).sum(2)
        added_TD = np.zeros((self.num_calls, self.max_group))  # by the last call of a group to its cost
        for t in range(self.num_calls):
            d = np.arange(min(self.max_group, t + 1))
            added_TD[t, d] = own_TL[t - d, d + 1] - own_TL[t - d, d]
        table = optimal_groups(added_TD, min_group=1, max_group=self.max_group, max_groups=num_groups)
        return table.refresh_calls(num_groups)

    def improved(self, refreshes: Refreshes) -> Refreshes:
        """Each refresh in turn is set where it costs least among the others, until none moves; the first stays at 0."""
        cost, moving = self.of(refreshes), True
        while moving:
            moving = False
            for index in range(1, len(refreshes)):
                best, moved = self._best_move(refreshes, index)
                if best < cost * (1 - 1e-9):  # rounding must not keep it going
                    refreshes, cost, moving = moved, best, True
        return refreshes

    def _best_move(self, refreshes: Refreshes, index: int) -> tuple[float, Refreshes]:
        """The least cost of moving the refresh of that index, and the schedule."""
        left = (*refreshes[:index], *refreshes[index + 1 :])
        starts, lengths = _groups(left, self.num_calls)
        long = lengths > self.max_group
        total_K = self.moves_TLK[starts[~long], lengths[~long]].sum(0)
        start_J, length_J = np.repeat(starts, lengths), np.repeat(lengths, lengths)  # of the group each call is in
        call_J = np.arange(self.num_calls)
        head_J, tail_J = call_J - start_J, start_J + length_J - call_J
        # too long a group has to be split in two that fit, and there may be only one
        free_J = (head_J > 0) & (np.maximum(head_J, tail_J) <= self.max_group)
        free_J &= long.sum() == np.where(length_J > self.max_group, 1, 0)
        if not free_J.any():
            return float("inf"), refreshes
        j, s, head, tail = call_J[free_J], start_J[free_J], head_J[free_J], tail_J[free_J]
        whole = length_J[free_J]
        old_JK = np.where((whole > self.max_group)[:, None], 0.0, self.moves_TLK[s, np.minimum(whole, self.max_group)])
        moved_JK = total_K - old_JK + self.moves_TLK[s, head] + self.moves_TLK[j, tail]
        cost_J = np.square(moved_JK).sum(1)
        best = int(cost_J.argmin())
        return float(cost_J[best]), tuple(sorted((*left, int(j[best]))))


def _groups(refreshes: Refreshes, num_calls: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and length of every group."""
    starts = np.array(refreshes)
    return starts, np.diff(np.append(starts, num_calls))
