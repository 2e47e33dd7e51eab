"""Moments of what a predictor makes of past maps against the true ones, along full-precision trajectories.

Plain reuse needs no such pass: `cq.correct.from_statistics` reads its moments off the calibration statistics.
Legend: T call.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from cq.core.artifacts import CacheSchedule
from cq.core.combine import combine
from cq.core.contracts import Predictor
from cq.core.denoise import DenoiseStep
from cq.core.moments import PairMoments


def predicted_moments(
    batches: Iterable[Iterable[DenoiseStep]], *, schedule: CacheSchedule, predictor: Predictor, sites: tuple[str, ...]
) -> dict[str, PairMoments]:
    """Site to moments of the pairs (predicted map, true map), one row a call; at a refresh both are the same map.

    batches: one denoising loop a batch, every call of it full.
    """
    parts = (batch_moments(steps, schedule=schedule, predictor=predictor, sites=sites) for steps in batches)
    return merged_moments(parts, sites)


def batch_moments(
    steps: Iterable[DenoiseStep], *, schedule: CacheSchedule, predictor: Predictor, sites: tuple[str, ...]
) -> dict[str, Tensor]:
    """The moments of one batch, as a shard holds them."""
    rows: dict[str, list[PairMoments]] = {site: [] for site in sites}
    refresh = set(schedule.refresh_calls)
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
            table.append(PairMoments.of(guess[site], true[site]))
    return {name: t for site, table in rows.items() for name, t in PairMoments.stack(table).tensors(site).items()}


def merged_moments(parts: Iterable[Mapping[str, Tensor]], sites: tuple[str, ...]) -> dict[str, PairMoments]:
    """The moments of all batches, added in the order in which they come."""
    totals: dict[str, PairMoments] = {}
    for part in parts:
        for site in sites:
            new = PairMoments.read(part, site)
            totals[site] = totals[site] + new if site in totals else new
    return totals
