"""Moments of the quantized against the full-precision noise prediction, call by call."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import Denoiser, DenoiserOutput
from cq.core.moments import PairMoments


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """The full-precision denoiser, which drives the trajectory; the twin runs on the same inputs at every call."""

    denoiser: Denoiser
    twin: Denoiser
    rows: dict[int, PairMoments] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.denoiser.sites

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        plain = self.denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)
        quantized = self.twin(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)
        new = PairMoments.of(quantized.eps_NCHW, plain.eps_NCHW)
        self.rows[call] = self.rows[call] + new if call in self.rows else new
        return plain


def output_moments(
    denoiser: Denoiser, twin: Denoiser, trajectories: LockstepTrajectories, *, num_calls: int
) -> PairMoments:
    """Moments [T, C] of (quantized guided noise, full-precision guided noise) of the same state and the same maps.

    The states are those of the full-precision trajectory that is deployed, cache and its correction included, so the
    difference is the error of quantization alone.
    """
    compared = _Compared(denoiser=denoiser, twin=twin)
    for _ in trajectories(compared, deployed=True):
        pass
    return PairMoments.stack([compared.rows[call] for call in range(num_calls)])
