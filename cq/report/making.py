"""How long it took to prepare a run: all that comes before its first image, whichever run did it.

Stages are shared through the store, so that most runs find them made. What counts is the time of making.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cq.report.cells import Stat, mean_of
from cq.run.record import PREPARATION, RunRecord


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Seconds over the seeds: total, and stage by stage as far as a stage took any."""

    total: Stat
    stages: Mapping[str, Stat]


def stages_of(record: RunRecord) -> Mapping[str, float] | None:
    """Stage of the preparation to seconds of its making; None where the time of one is not known."""
    found = {stage: record.made[stage] for stage in PREPARATION if stage in record.made}
    return found if found and None not in found.values() else None


def preparation(ok: Sequence[RunRecord]) -> Preparation | None:
    """Over the seeds whose time is known; None without one."""
    known = [stages for record in ok if (stages := stages_of(record)) is not None]
    if not known:
        return None
    names = [name for name in PREPARATION if any(name in stages for stages in known)]
    return Preparation(
        total=mean_of([math.fsum(stages.values()) for stages in known]),
        stages={name: mean_of([stages.get(name, 0.0) for stages in known]) for name in names},
    )
