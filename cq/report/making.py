"""How long it took to prepare a run: all that comes before its first image, whichever run did it.

Stages are shared through the store, so that most runs find them made. What counts is the time of making.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cq.report.cells import Stat, mean_of
from cq.run.record import PREPARATION, RunRecord

INSIDE = "statistics"  # the one stage that others ask for in their making
ASKING = ("schedule", "cache_correction")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Seconds over the seeds: total, and stage by stage as far as a stage took any."""

    total: Stat
    stages: Mapping[str, Stat]


class Makers:
    """Seconds of every artefact's making.

    Records say it themselves (`made`). Of those from before it was kept, it is the longest that any of them spent on
    the artefact: the others found it made. They list the stages in the order in which they ended, so that what a stage
    asked for stands before it.
    """

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._longest: dict[tuple[str, str], float] = {}
        self._behind: dict[tuple[str, str, int], str] = {}
        for record in records:
            if record.made:
                continue
            waiting = ""
            for stage, seconds in record.seconds.items():
                if stage not in record.artifacts:  # loading makes no artefact
                    continue
                key = (stage, record.artifacts[stage])
                self._longest[key] = max(float(seconds), self._longest.get(key, 0.0))
                if stage == INSIDE:
                    waiting = record.artifacts[stage]
                elif waiting and stage in ASKING:
                    self._behind.setdefault((*key, record.seed), waiting)
                    waiting = ""

    def stages(self, record: RunRecord) -> Mapping[str, float] | None:
        """Stage of the preparation to seconds; None where the time of one is not known."""
        artifacts = dict(record.artifacts)
        if not record.made:
            for stage in ASKING:
                behind = self._behind.get((stage, artifacts.get(stage, ""), record.seed))
                if behind is not None:
                    artifacts.setdefault(INSIDE, behind)
        found: dict[str, float] = {}
        for stage in PREPARATION:
            if stage not in (record.made or artifacts):
                continue
            seconds = record.made.get(stage)
            if seconds is None:
                seconds = self._longest.get((stage, str(artifacts.get(stage))))
            if seconds is None:
                return None
            found[stage] = float(seconds)
        return found or None

    def preparation(self, ok: Sequence[RunRecord]) -> Preparation | None:
        """Over the seeds whose time is known; None without one."""
        known = [stages for record in ok if (stages := self.stages(record)) is not None]
        if not known:
            return None
        names = [name for name in PREPARATION if any(name in stages for stages in known)]
        return Preparation(
            total=mean_of([math.fsum(stages.values()) for stages in known]),
            stages={name: mean_of([stages.get(name, 0.0) for stages in known]) for name in names},
        )
