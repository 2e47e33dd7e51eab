"""A denoiser as a function of its arguments: what it must be, and a network with guidance as one.

Legend: N batch (guided models: [unconditional; conditional], 2N), C channel, H W space.
"""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cq.core.call import CallIndex

OUTPUT = "output"  # the site behind the last layer: who reuses it runs no network


@dataclass(frozen=True)
class DenoiserOutput:
    """eps_NCHW: the guided noise prediction. features: freshly computed maps by site (none on a reuse call)."""

    eps_NCHW: Tensor
    features: Mapping[str, Tensor]


@runtime_checkable
class Denoiser(Protocol):
    """A network as a function of its arguments: no state survives a call.

    Law: feeding back the features of the same call reproduces the same eps bit for bit.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """The named places whose maps a full call records."""

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        """Predict the noise in `x_NCHW`; what feeds the sites in `reuse` is not computed."""


def within(sites: tuple[str, ...]) -> tuple[str, ...]:
    """The sites that lie in the network."""
    return tuple(site for site in sites if site != OUTPUT)


class FullCall(Protocol):
    """`CutNetwork.full` with the sites fixed."""

    def __call__(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, /
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class CutNetwork(Protocol):
    """A diffusers network that can record maps at sites and start again from them. Maps are [N, C, ...]."""

    @property
    def backbone(self) -> Any:
        """The diffusers module; layers are named as in it."""

    @property
    def blocks(self) -> int:
        """How many transformer blocks a strategy can name; 0 for U-Nets."""

    def check(self, sites: tuple[str, ...]) -> None:
        """Raise ValueError for a site the network does not have."""

    def splits(self) -> Mapping[str, int]:
        """Layers that read a concatenation, and how many of their input channels are the main path's."""

    def edges(self) -> frozenset[str]:
        """The first and the last layer, which keep 8 bits."""

    def units(self) -> list[str]:
        """The parts a quantizer may adjust one after another, in the order in which a full call runs them.

        Every Conv2d and Linear is in exactly one of them.
        """

    def readers(self, sites: tuple[str, ...]) -> list[str]:
        """The layers that read what the sites hold, whose output can be corrected."""

    def full(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, record: tuple[str, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """diffusers' own forward, bit for bit: the noise prediction, and the maps at `record`.

        timestep: one for all, or [N].
        """

    def recording(self, sites: tuple[str, ...]) -> AbstractContextManager[FullCall]:
        """`full` with the sites fixed, for a block in which all that records them stands, as a compiler needs."""

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, reuse: Mapping[str, Tensor]) -> Tensor:
        """The noise prediction without running what feeds the sites in `reuse`."""


@dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
    """guidance: the scale s in eps = eps_null + s (eps_cond - eps_null); None for models without it.

    With guidance, one doubled batch goes through the network, the maps of both halves are cached, and `cond` holds
    both halves [2N, ...]: the null half first (LDM, Stable Diffusion), or last (DiT).
    sites: what a full call records; `OUTPUT` is the guided prediction itself. dtype: what the network computes in;
    states and noise predictions are float32.
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
        if OUTPUT in reuse:
            return DenoiserOutput(reuse[OUTPUT], {})
        features: Mapping[str, Tensor] = {}
        doubled_NCHW = x_NCHW if self.guidance is None else torch.cat([x_NCHW, x_NCHW])
        doubled_NCHW = doubled_NCHW.to(self.dtype)
        if cond is not None and cond.is_floating_point():
            cond = cond.to(self.dtype)
        with self.call_index.at(call):
            if reuse:
                eps = self.network.shallow(doubled_NCHW, timestep, cond, reuse=reuse)
            else:
                eps, features = self.network.full(doubled_NCHW, timestep, cond, record=within(self.sites))
        eps = eps.float()
        if self.guidance is not None:
            null, conditional = eps.chunk(2) if self.null_first else reversed(eps.chunk(2))
            eps = null + self.guidance * (conditional - null)
        if OUTPUT in self.sites and not reuse:
            features = {**features, OUTPUT: eps}
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
        self.network.check(within(sites))
        return replace(self, sites=sites)
