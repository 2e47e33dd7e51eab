"""Compiled: full precision, or 16 bits, each kind of call as one graph of torch.compile."""

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.denoiser import CutNetwork, Denoiser, GuidedDenoiser
from cq.correct.corrected import corrected

GRAPHS = 64  # that one kind of call may have in a process: networks, batch sizes and sites are a graph each


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A graph for full and one for cached calls. It executes what has no bits, and refuses what has.

    backend: torch.compile's; eager and aot_eager only trace. graphs: replay each as a CUDA graph, on a GPU.
    freezing: weights are constants, which oneDNN packs once, on a CPU; each kind of call then holds what it packed
    beside the network's own weights.
    """

    backend: Literal["inductor", "aot_eager", "eager"]
    graphs: bool
    freezing: bool

    full_precision: ClassVar[bool] = True

    def check(self, *, quantized: bool) -> None:
        """Raise ValueError where something is to be quantized, or nothing here can compile."""
        if quantized:
            raise ValueError("engine=compiled: runs nothing quantized. Set quantize=none, or engine=simulate.")
        if self.backend == "inductor":
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler

            try:
                get_cpp_compiler()  # for a GPU's code, too: it builds what launches the kernels
            except (InvalidCxxCompiler, RuntimeError) as error:
                raise ValueError("engine=compiled: finds no C++ compiler. Install g++, or set engine=plain.") from error

    def real(self, acceleration: Acceleration) -> bool:
        """Always: it runs what a deployment would."""
        return True

    def lower(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> Denoiser:
        """The denoiser compiled, the prediction corrected; itself where there is no call to make of it."""
        self.check(quantized=acceleration.quantized)
        on_gpu = next(denoiser.network.backbone.parameters()).is_cuda
        made = compiled(
            denoiser, backend=self.backend, graphs=self.graphs and on_gpu, freezing=self.freezing and not on_gpu
        )
        return corrected(made, acceleration.output)


class CompiledNetwork:
    """`network` for one choice of sites: `full` and `shallow` are one graph each, without a break (`fullgraph`).

    What records the maps stands in a copy that shares the weights, so the cached call is compiled without it. Another
    batch size, or other sites to reuse, is another graph. options: what torch.compile is given beside.
    graphs: they are CUDA graphs, whose next replay writes over what the last one returned.
    """

    def __init__(self, network: Any, sites: tuple[str, ...], *, graphs: bool, **options: Any) -> None:
        self._network: CutNetwork = network
        self._sites = sites
        self._graphs = graphs
        dynamo: Any = torch._dynamo.config  # counts by code, which all networks of a kind share
        dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self._recording = ExitStack()  # never closed: the hooks are in the graph
        run = self._recording.enter_context(copy.deepcopy(network, shared).recording(sites))
        self._full: Any = torch.compile(run, fullgraph=True, dynamic=False, **options)
        self._shallow: Any = torch.compile(network.shallow, fullgraph=True, dynamic=False, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def full(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, record: tuple[str, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As the network's, for the sites it was compiled for."""
        assert record == self._sites, "compiled for other sites"
        eps, maps = self._full(x_NCHW, self._begun(x_NCHW, timestep), cond)
        return self._kept(eps), {site: self._kept(held) for site, held in maps.items()}

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, reuse: Mapping[str, Tensor]) -> Tensor:
        """As the network's."""
        return self._kept(self._shallow(x_NCHW, self._begun(x_NCHW, timestep), cond, reuse=reuse))

    def _begun(self, x_NCHW: Tensor, timestep: Tensor) -> Tensor:
        """The timestep where the network is: a graph with an input in the CPU's memory is not captured."""
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return timestep.to(x_NCHW.device)

    def _kept(self, made: Tensor) -> Tensor:
        return made.clone() if self._graphs else made  # in its own layout: the cached call was compiled for it


def compiled(
    denoiser: GuidedDenoiser, *, backend: str = "inductor", graphs: bool = False, freezing: bool = False
) -> GuidedDenoiser:
    """The denoiser with its network compiled; the one that was given stays as it is. See `Compiled`."""
    inductor = {"triton.cudagraphs": graphs, "freezing": freezing} if backend == "inductor" else None
    return denoiser.with_network(
        CompiledNetwork(
            denoiser.network, denoiser.sites, graphs=graphs and backend == "inductor", backend=backend, options=inductor
        )
    )
