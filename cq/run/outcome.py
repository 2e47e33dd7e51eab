"""What a run leaves behind, before it becomes a record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.artifacts import SampleSet


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything a run made; `cq.run.ledger` turns it into a RunRecord.

    folder: where the acceleration lies. folders: stage to its folder in the store. device: where its networks ran.
    executed: as in `RunRecord`.
    rounding: what else the last digits depend on, batches included.
    """

    acceleration: Acceleration
    folder: Path
    folders: Mapping[str, str]
    samples: SampleSet
    baseline: SampleSet
    scores: Mapping[str, Any]
    missing: Mapping[str, str]
    counted: Mapping[str, float]
    measured: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    made: Mapping[str, float | None]
    digests: Mapping[str, str]
    weights_digest: str
    images_digest: str
    device: str
    executed: str
    rounding: Mapping[str, Any]
