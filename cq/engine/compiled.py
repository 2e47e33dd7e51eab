"""A network whose two kinds of calls are compiled, each to one graph."""

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from cq.core.denoiser import CutNetwork, GuidedDenoiser


class CompiledNetwork:
    """`network` for one choice of sites: `full` and `shallow` are one graph each, without a break (`fullgraph`).

    What records the maps stands in a copy that shares the weights, so the cached call is compiled without it. Another
    batch size, or other sites to reuse, is another graph. backend: torch.compile's.
    """

    def __init__(self, network: Any, sites: tuple[str, ...], *, backend: str) -> None:
        self._network: CutNetwork = network
        self._sites = sites
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self._recording = ExitStack()  # never closed: the hooks are in the graph
        run = self._recording.enter_context(copy.deepcopy(network, shared).recording(sites))
        self._full: Any = torch.compile(run, fullgraph=True, dynamic=False, backend=backend)
        self._shallow: Any = torch.compile(network.shallow, fullgraph=True, dynamic=False, backend=backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def full(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, record: tuple[str, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As the network's, for the sites it was compiled for."""
        assert record == self._sites, "compiled for other sites"
        out: tuple[Tensor, Mapping[str, Tensor]] = self._full(x_NCHW, timestep, cond)
        return out

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, reuse: Mapping[str, Tensor]) -> Tensor:
        """As the network's."""
        out: Tensor = self._shallow(x_NCHW, timestep, cond, reuse=reuse)
        return out


def compiled(denoiser: GuidedDenoiser, *, backend: str = "inductor") -> GuidedDenoiser:
    """The denoiser with its network compiled; the one that was given stays as it is."""
    return denoiser.with_network(CompiledNetwork(denoiser.network, denoiser.sites, backend=backend))
