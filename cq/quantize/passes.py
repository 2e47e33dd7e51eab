"""Calls of a network that wait at its units, so that nothing before a unit is run again for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from greenlet import greenlet
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cq.core.denoiser import CutNetwork
from cq.quantize.states import States

SHARE = 0.5  # of the free memory, for what waiting passes hold


class Pass(greenlet):
    """One call of a network on some states that stops wherever `waiting` says, and goes on when it is asked to.

    A coroutine, as a network's own `forward` cannot be a generator. While it waits it holds the maps that are alive.
    """

    def __init__(self, network: CutNetwork, states: States, *, full: bool) -> None:
        super().__init__(lambda: states.run(network, full=full))
        self._index = -1
        self._found: Any = None

    def at(self, index: int) -> Any:
        """What the call holds at stop `index`; None where it does not run that unit. Ask in rising order."""
        while self._index < index and not self.dead:
            with torch.no_grad():  # a pass leaves and takes up its own grad mode anywhere: let them all be the same
                self._found = None
                stop = self.switch()
            if stop is not None:
                self._index, self._found = stop
        return self._found if self._index == index else None

    def close(self) -> None:
        """End the call where it waits. Ended by the garbage collector, it would change the grad mode of other code."""
        with torch.no_grad():
            self.throw()


@contextmanager
def waiting(network: CutNetwork, units: Sequence[str], *, behind: Callable[[Any], Any] | None = None) -> Iterator[None]:
    """Every `Pass` through the network stops before each unit and holds the unit's positional and named arguments.

    behind: stop after each unit instead, holding `behind(output)`. Calls that are no `Pass` do not stop.
    """

    def before(index: int) -> Callable[..., None]:
        return lambda _, args, kwargs: _stop(index, (args, kwargs))

    def after(index: int, of: Callable[[Any], Any]) -> Callable[..., None]:
        return lambda _, args, out: _stop(index, of(out))

    handles = []
    for index, unit in enumerate(units):
        module: nn.Module = network.backbone.get_submodule(unit)
        if behind is None:
            handles.append(module.register_forward_pre_hook(before(index), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(after(index, behind)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop(index: int, found: Any) -> None:
    current = greenlet.getcurrent()
    if isinstance(current, Pass):
        assert current.parent is not None
        current.parent.switch((index, found))


def unit_bytes(network: CutNetwork, units: Sequence[str], call: Callable[[], object]) -> dict[str, tuple[int, int]]:
    """Bytes of what goes into each unit in one call, and of what it returns, which passes that wait hold in part."""
    sizes = dict.fromkeys(units, (0, 0))

    def counted(unit: str) -> Callable[..., None]:
        def count(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            sizes[unit] = (_bytes((args, kwargs)), _bytes(out))

        return count

    handles = [
        network.backbone.get_submodule(unit).register_forward_hook(counted(unit), with_kwargs=True) for unit in units
    ]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def all_can_wait(size: float, device: torch.device) -> bool:
    """Whether passes of both networks, `size` bytes of output each in all, may wait at the same time."""
    return 2 * size <= SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the network runs."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
