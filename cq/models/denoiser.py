"""A network with sites, and classifier-free guidance, as a Denoiser."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cq.core.contracts import CutNetwork, DenoiserOutput
from cq.models.call import CallIndex


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    """guidance: the scale s in eps = eps_null + s (eps_cond - eps_null); None for models without it.

    With guidance, one doubled batch goes through the network, the maps of both halves are cached, and `cond` holds
    both halves [2N, ...]: the null half first (LDM, Stable Diffusion), or last (DiT).
    sites: what a full call records. dtype: what the network computes in; states and noise predictions are float32.
    """

    network: CutNetwork
    sites: tuple[str, ...]
    guidance: float | None
    null_first: bool
    call_index: CallIndex
    dtype: torch.dtype = torch.float32

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        unknown = sorted(set(reuse) - set(self.sites))
        if unknown:
            raise ValueError(f"reuse names {unknown}, but this denoiser's sites are {', '.join(self.sites)}.")
        features: Mapping[str, Tensor] = {}
        doubled_NCHW = x_NCHW if self.guidance is None else torch.cat([x_NCHW, x_NCHW])
        doubled_NCHW = doubled_NCHW.to(self.dtype)
        if cond is not None and cond.is_floating_point():
            cond = cond.to(self.dtype)
        with self.call_index.at(call):
            if reuse:
                eps = self.network.shallow(doubled_NCHW, timestep, cond, reuse=reuse)
            else:
                eps, features = self.network.full(doubled_NCHW, timestep, cond, record=self.sites)
        eps = eps.float()
        if self.guidance is not None:
            null, conditional = eps.chunk(2) if self.null_first else reversed(eps.chunk(2))
            eps = null + self.guidance * (conditional - null)
        return DenoiserOutput(eps, features)

    def with_network(self, network: CutNetwork) -> "GuidedDenoiser":
        """The same denoiser around another network (a quantized twin), with a call index of its own.

        So two denoisers never set each other's.
        """
        return replace(self, network=network, call_index=CallIndex())

    def widened(self) -> "GuidedDenoiser":
        """This denoiser where it computes in float32; else one with a float32 copy of its network."""
        if self.dtype == torch.float32:
            return self
        network: Any = copy.deepcopy(self.network)
        return replace(self.with_network(network.float()), dtype=torch.float32)

    def with_sites(self, sites: tuple[str, ...]) -> "GuidedDenoiser":
        """The same denoiser recording other sites. Raises ValueError for one that the network does not have."""
        self.network.check(sites)
        return replace(self, sites=sites)
