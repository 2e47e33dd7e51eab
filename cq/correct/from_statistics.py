"""The calibration pass read through a schedule: which map stands in for which, call by call."""

from math import ceil

import torch
from torch import Tensor

from cq.core.artifacts import CacheSchedule, TrajectoryStatistics
from cq.core.moments import PairMoments


def moments_for_schedule(statistics: TrajectoryStatistics, schedule: CacheSchedule, site: str) -> PairMoments:
    """Moments of a site's pairs (X of the last refresh, X of the call), one row per call; no second pass is needed.

    At a refresh call both are the same map. Raises ValueError where the statistics are of another number of calls
    or do not reach from the end of the longest group to its start.
    """
    if schedule.num_calls != statistics.num_calls:
        raise ValueError(
            f"the schedule has {schedule.num_calls} calls, the calibration statistics {statistics.num_calls}. "
            "Calibrate with the same budget.num_steps."
        )
    if schedule.longest_group > statistics.window + 1:
        raise ValueError(
            f"calibrate.max_interval: its statistics compare calls up to {statistics.window} apart, but the longest "
            f"group of this {schedule.planner} schedule has {schedule.longest_group} calls. Set "
            f"calibrate.max_interval to at least {ceil(schedule.longest_group / 2)}."
        )
    call_T = torch.arange(schedule.num_calls)
    source_T = torch.tensor(schedule.sources)
    sum_TC, square_TC = statistics.sum_TC[site], statistics.square_TC[site]
    return PairMoments(
        count=torch.full((schedule.num_calls, 1), float(statistics.count[site]), dtype=torch.float64),
        source_TC=sum_TC[source_T],
        target_TC=sum_TC,
        source_square_TC=square_TC[source_T],
        target_square_TC=square_TC,
        cross_TC=torch.where(
            (source_T == call_T)[:, None],
            square_TC,  # a map times itself
            statistics.cross_TDC[site][call_T, call_T - source_T],
        ),
    )


def identity_at_refresh(gain_TC: Tensor, offset_TC: Tensor, schedule: CacheSchedule) -> tuple[Tensor, Tensor]:
    """Copies with gain exactly 1 and offset exactly 0 where the map is fresh and needs no correction."""
    gain_TC, offset_TC = gain_TC.clone(), offset_TC.clone()
    fresh = list(schedule.refresh_calls)
    gain_TC[fresh] = 1.0
    offset_TC[fresh] = 0.0
    return gain_TC, offset_TC
