"""How many groups a schedule has and how long a group may be; the budget every planner is held to."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True)
class GroupBounds:
    """`num_groups` groups of `min_group` to `max_group` calls each; `group_bounds` makes them feasible."""

    num_groups: int
    min_group: int
    max_group: int


def check_interval(interval: int) -> None:
    """Raise ValueError unless `interval` (calls per group) is at least 1."""
    if interval < 1:
        raise ValueError(
            f"schedule.interval={interval}: a group has at least one call. Set budget.cache_interval to 1 or more."
        )


def check_num_calls(num_calls: int) -> None:
    """Raise ValueError unless the trajectory has a call at all."""
    if num_calls < 1:
        raise ValueError(f"num_calls={num_calls}: a trajectory has at least one call. Raise budget.num_steps.")


def feasible_groups(num_calls: int, *, min_group: int, max_group: int) -> range:
    """Every K for which `num_calls` splits into K groups of the given lengths; may be empty."""
    return range(ceil(num_calls / max_group), num_calls // min_group + 1)


def group_bounds(
    num_calls: int, *, interval: int, num_groups: int | None, min_group: int | None, max_group: int | None
) -> GroupBounds:
    """The bounds with every None replaced by CacheQuant's default (arXiv:2503.01323, as released).

    K = ceil(num_calls / interval), lengths ceil(interval / 2) to 2 interval, the upper one at most num_calls.
    Raises ValueError where no schedule satisfies them; the message holds the numbers of groups that do.
    """
    check_num_calls(num_calls)
    if interval > num_calls:
        raise ValueError(
            f"schedule.interval={interval}: exceeds the {num_calls} calls of a trajectory. "
            f"Set budget.cache_interval to {num_calls} or less, or raise budget.num_steps."
        )
    lo = ceil(interval / 2) if min_group is None else min_group
    hi = min(2 * interval if max_group is None else max_group, num_calls)
    groups = ceil(num_calls / interval) if num_groups is None else num_groups
    feasible = feasible_groups(num_calls, min_group=lo, max_group=hi)
    if groups not in feasible:
        remedy = (
            f"Set schedule.num_groups between {feasible[0]} and {feasible[-1]}, or relax the bounds."
            if feasible
            else "No number of groups does: lower schedule.min_group or raise schedule.max_group."
        )
        raise ValueError(
            f"schedule.num_groups={groups}: {num_calls} calls do not split into {groups} groups of {lo} to {hi} calls "
            f"(schedule.min_group to schedule.max_group). {remedy}"
        )
    return GroupBounds(num_groups=groups, min_group=lo, max_group=hi)
