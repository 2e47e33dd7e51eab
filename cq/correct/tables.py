"""A corrector's fits at several places as one artefact."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cq.core.acceleration import NO_CORRECTION
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.fit import r_squared
from cq.correct.from_statistics import identity_at_refresh


def fit_tables(
    corrector: Corrector, schedule: CacheSchedule, gather: Callable[[], Mapping[str, PairMoments]], *,
    biases: Mapping[str, Tensor | None], identity_at_full: bool,
) -> ChannelAffine:  # fmt: skip
    """Fit a corrector at every site or layer.

    gather: the moments of every name in `biases`, called only where there is something to fit. biases: the layer's,
    None for maps. identity_at_full: nothing is corrected at refresh calls, where a map is fresh.
    """
    if not (biases and corrector.corrects):
        return NO_CORRECTION
    moments = gather()
    tables: dict[str, Tensor] = {}
    r2: dict[str, Tensor] = {}
    for name, bias_C in biases.items():
        found = moments[name]
        fitted = corrector.fit(found, bias_C=bias_C)
        gain_TC, offset_TC = identity_at_refresh(*fitted, schedule) if identity_at_full else fitted
        r2[name] = r_squared(found, gain_TC, offset_TC).float()
        tables[name] = torch.stack([gain_TC, offset_TC], dim=1).float()
    return ChannelAffine(schedule=schedule.identity, tables=tables, r2=r2)
