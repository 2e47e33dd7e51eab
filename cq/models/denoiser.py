"""A cut U-Net with classifier-free guidance as a Denoiser."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cq.contracts import DenoiserOutput
from cq.models.call import CallIndex
from cq.models.unet import UNetCut


@dataclass(frozen=True, kw_only=True)
class UNetDenoiser:
    """guidance: the scale s in eps = eps_null + s (eps_cond - eps_null); None for models without it.

    With guidance, one doubled batch [null; conditional] goes through the network, the map of both halves is
    cached, and `cond` holds both halves [2N, ...].
    """

    network: UNetCut
    guidance: float | None
    call_index: CallIndex

    @property
    def site(self) -> str:
        return self.network.cut.site

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        unknown = set(reuse) - {self.site}
        if unknown:
            raise ValueError(f"reuse names {sorted(unknown)}, but this denoiser's only site is {self.site!r}.")
        features: dict[str, Tensor] = {}
        doubled_NCHW = x_NCHW if self.guidance is None else torch.cat([x_NCHW, x_NCHW])
        with self.call_index.at(call):
            if self.site in reuse:
                eps = self.network.shallow(doubled_NCHW, timestep, cond, reuse[self.site])
            else:
                eps, features[self.site] = self.network.full(doubled_NCHW, timestep, cond)
        if self.guidance is not None:
            null, conditional = eps.chunk(2)
            eps = null + self.guidance * (conditional - null)
        return DenoiserOutput(eps, features)

    def with_network(self, network: UNetCut) -> "UNetDenoiser":
        """The same denoiser around another network (a quantized twin)."""
        return replace(self, network=network)
