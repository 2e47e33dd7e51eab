"""A denoiser whose prediction is corrected, which is what the output correction does to every call."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cq.core.acceleration import EARLIER_NOISE, HELD, HELD_NOISE, HELD_STATE, NOISE, STATE
from cq.core.artifacts import ChannelAffine
from cq.core.denoiser import Denoiser, DenoiserOutput


@dataclass(frozen=True, kw_only=True)
class CorrectedDenoiser:
    """`denoiser`, with its guided prediction corrected: a sum over tables of gain and offset per call and channel.

    Maps stay as they are. Where a table asks for the prediction or the state of the last refresh, the loop keeps these
    beside the maps, as it is given them.
    """

    denoiser: Denoiser
    correction: ChannelAffine

    @property
    def sites(self) -> tuple[str, ...]:
        return self.denoiser.sites

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        own = {site: held for site, held in reuse.items() if site not in HELD}
        out = self.denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=own)
        return self.mended(out, terms(out, x_NCHW, reuse), call=call)

    def mended(self, out: DenoiserOutput, found: Mapping[str, Tensor], *, call: int) -> DenoiserOutput:
        """`out` with its prediction corrected, and at a refresh with what later calls ask for. found: its `terms`."""
        eps_NCHW = self.correction.apply(out.eps_NCHW, name=NOISE, call=call)
        for name in (STATE, *HELD):  # in this order, for a sum of floats depends on it, and files order by name
            if name in self.correction.tables and name in found:
                eps_NCHW = eps_NCHW + self.correction.apply(found[name], name=name, call=call)
        kept = {HELD_NOISE: eps_NCHW, HELD_STATE: found[STATE]} if out.features else {}
        if kept and HELD_NOISE in found:
            kept[EARLIER_NOISE] = found[HELD_NOISE]
        asked = {name: held for name, held in kept.items() if name in self.correction.tables}
        return DenoiserOutput(eps_NCHW, {**out.features, **asked})


def terms(out: DenoiserOutput, x_NCHW: Tensor, reuse: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the corrected prediction of a call may be made of, by table; before the first refresh nothing is held."""
    return {NOISE: out.eps_NCHW, STATE: x_NCHW} | {name: reuse[name] for name in HELD if name in reuse}


def corrected(denoiser: Denoiser, correction: ChannelAffine) -> Denoiser:
    """`denoiser` itself where there is nothing to correct."""
    return CorrectedDenoiser(denoiser=denoiser, correction=correction) if correction.tables else denoiser
