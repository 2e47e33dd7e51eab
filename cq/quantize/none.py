"""Full precision."""

from dataclasses import dataclass

from cq.artifacts import ChannelAffine, QuantParams
from cq.contracts import LockstepTrajectories
from cq.models.denoiser import UNetDenoiser


@dataclass(frozen=True, kw_only=True)
class FullPrecision:
    """Leaves the denoiser as it is."""

    num_samples: int = 0
    batch_size: int = 1

    def calibrate(self, denoiser: UNetDenoiser, trajectories: LockstepTrajectories, *, num_calls: int) -> QuantParams:
        return QuantParams(tensors={}, bits={}, coverage=())

    def quantize(self, denoiser: UNetDenoiser, params: QuantParams, correction: ChannelAffine) -> UNetDenoiser:
        return denoiser

    def entry_layers(self, denoiser: UNetDenoiser) -> list[str]:
        return []
