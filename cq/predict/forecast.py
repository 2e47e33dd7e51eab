"""A predictor's answers along a schedule: how much each past refresh counts at every call."""

from cq.core.artifacts import CacheSchedule
from cq.core.contracts import Predictor


def forecast_of(schedule: CacheSchedule, predictor: Predictor) -> tuple[tuple[float, ...], ...]:
    """The weights of the last refreshes' maps at every call, newest first; () at refreshes, where maps are fresh."""
    refresh = set(schedule.refresh_calls)
    past: list[int] = []
    rows: list[tuple[float, ...]] = []
    for call in range(schedule.num_calls):
        if call in refresh:
            past = [call, *past][: predictor.depth]
            rows.append(())
        else:
            rows.append(tuple(predictor.weights(call, tuple(past))))
    return tuple(rows)
