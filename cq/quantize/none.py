"""Full precision."""

from dataclasses import dataclass
from pathlib import Path

from cq.core.acceleration import FULL_PRECISION
from cq.core.artifacts import QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser


@dataclass(frozen=True, kw_only=True)
class FullPrecision:
    """Leaves the denoiser as it is."""

    num_samples: int = 0
    batch_size: int = 1

    @property
    def ranges(self) -> "FullPrecision":
        return self

    def lighter(self, step: str) -> None:
        """There is nothing to make lighter."""

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        return FULL_PRECISION
