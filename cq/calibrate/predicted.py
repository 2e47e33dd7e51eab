"""Moments of what a predictor makes of past maps against the true ones, along full-precision trajectories.

Plain reuse needs no such pass: `cq.correct.from_statistics` reads its moments off the calibration statistics.
Legend: T call.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.combine import combine
from cq.core.denoise import DenoiseStep
from cq.core.moments import PairMoments


def batch_moments(
    steps: Iterable[DenoiseStep], *, acceleration: Acceleration, sites: tuple[str, ...]
) -> dict[str, Tensor]:
    """The moments of the pairs (predicted map, true map) of one batch, one row a call, as a shard holds them.

    steps: a denoising loop whose every call is full. At a refresh both are the same map.
    """
    rows: dict[str, list[PairMoments]] = {site: [] for site in sites}
    past: list[Mapping[str, Tensor]] = []
    for step in steps:
        true = step.output.features
        weights = acceleration.forecast[step.call]
        if not weights:
            past = [true, *past][: acceleration.depth]
        for site, table in rows.items():
            guess = combine(weights, [maps[site] for maps in past]) if weights else true[site]
            table.append(PairMoments.of(guess, true[site]))
    return {name: t for site, table in rows.items() for name, t in PairMoments.stack(table).tensors(site).items()}


def merged_moments(parts: Iterable[Mapping[str, Tensor]], sites: tuple[str, ...]) -> dict[str, PairMoments]:
    """The moments of all batches, added in the order in which they come."""
    totals: dict[str, PairMoments] = {}
    for part in parts:
        for site in sites:
            new = PairMoments.read(part, site)
            totals[site] = totals[site] + new if site in totals else new
    return totals
