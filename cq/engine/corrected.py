"""A denoiser whose noise prediction is corrected after every call."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cq.core.acceleration import NOISE
from cq.core.artifacts import ChannelAffine
from cq.core.denoiser import Denoiser, DenoiserOutput


@dataclass(frozen=True, kw_only=True)
class CorrectedDenoiser:
    """`denoiser`, with gain and offset per call and channel on its guided prediction. Maps stay as they are."""

    denoiser: Denoiser
    correction: ChannelAffine

    @property
    def sites(self) -> tuple[str, ...]:
        return self.denoiser.sites

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        out = self.denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)
        return DenoiserOutput(self.correction.apply(out.eps_NCHW, name=NOISE, call=call), out.features)


def corrected(denoiser: Denoiser, correction: ChannelAffine) -> Denoiser:
    """The denoiser with `correction`; the very same one where there is no table for the noise."""
    return CorrectedDenoiser(denoiser=denoiser, correction=correction) if NOISE in correction.tables else denoiser
