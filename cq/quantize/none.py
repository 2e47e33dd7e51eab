"""Full precision."""

from dataclasses import dataclass
from pathlib import Path

from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.models.denoiser import GuidedDenoiser


@dataclass(frozen=True, kw_only=True)
class FullPrecision:
    """Leaves the denoiser as it is."""

    num_samples: int = 0
    batch_size: int = 1

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        return QuantParams(tensors={}, bits={}, coverage=())

    def quantize(self, denoiser: GuidedDenoiser, params: QuantParams, correction: ChannelAffine) -> GuidedDenoiser:
        return denoiser

    def entry_layers(self, denoiser: GuidedDenoiser) -> list[str]:
        return []
