"""A corrector's fits at several places as one artefact."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from torch import Tensor

from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.fit import r_squared
from cq.correct.from_statistics import identity_at_refresh


def fit_tables(
    corrector: Corrector, schedule: CacheSchedule, moments: Mapping[str, Callable[[], PairMoments]], *,
    biases: Mapping[str, Tensor | None], identity_at_full: bool,
) -> ChannelAffine:  # fmt: skip
    """Fit a corrector at every site or layer.

    moments: by name, gathered when called. biases: the layer's, None for maps. identity_at_full: nothing is corrected
    at refresh calls, where a map is fresh.
    """
    tables: dict[str, Tensor] = {}
    r2: dict[str, Tensor] = {}
    for name, gather in moments.items():
        fitted = corrector.fit(gather, bias_C=biases[name])
        if fitted is None:
            continue
        gain_TC, offset_TC = identity_at_refresh(*fitted, schedule) if identity_at_full else fitted
        r2[name] = r_squared(gather(), gain_TC, offset_TC).float()
        tables[name] = torch.stack([gain_TC, offset_TC], dim=1).float()
    return ChannelAffine(schedule=schedule.identity if tables else "", tables=tables, r2=r2)


def lazily(
    names: Iterable[str], gather: Callable[[], Mapping[str, PairMoments]]
) -> dict[str, Callable[[], PairMoments]]:
    """The moments of every name, gathered together when the first of them is asked for, and not before."""
    once = cache(gather)
    return {name: lambda name=name: once()[name] for name in names}  # type: ignore[misc]
