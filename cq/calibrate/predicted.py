"""Moments of what a predictor makes of past maps against the true ones, along full-precision trajectories.

Plain reuse needs no such pass: `cq.correct.from_statistics` reads its moments off the calibration statistics.
Legend: T call.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from cq.artifacts import CacheSchedule
from cq.calibrate.moments import PairMoments
from cq.contracts import Predictor
from cq.denoise import DenoiseStep
from cq.predict.combine import combine


def predicted_moments(
    batches: Iterable[Iterable[DenoiseStep]], *, schedule: CacheSchedule, predictor: Predictor, sites: tuple[str, ...]
) -> dict[str, PairMoments]:
    """Site to moments of the pairs (predicted map, true map), one row a call; at a refresh both are the same map.

    batches: one denoising loop a batch, every call of it full.
    """
    rows: dict[str, list[PairMoments]] = {site: [] for site in sites}
    refresh = set(schedule.refresh_calls)
    for steps in batches:
        past: list[tuple[int, Mapping[str, Tensor]]] = []
        for step in steps:
            true = step.output.features
            if step.call in refresh:
                past = [(step.call, true), *past][: predictor.depth]
                guess = dict(true)
            else:
                weights = predictor.weights(step.call, tuple(at for at, _ in past))
                guess = {site: combine(weights, [features[site] for _, features in past]) for site in sites}
            for site, table in rows.items():
                new = PairMoments.of(guess[site], true[site])
                if step.call < len(table):
                    table[step.call] += new
                else:
                    table.append(new)
    return {site: PairMoments.stack(table) for site, table in rows.items()}
