"""A network's units, in the order in which they run, and what goes in and should come out of one of them.

Legend: R row (one state under one condition), K L as in `states`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cq.core.denoiser import CutNetwork
from cq.quantize.learnable import RowCalls
from cq.quantize.passes import Pass, waiting
from cq.quantize.states import States

Targets = Literal["full", "cached"]


@dataclass(frozen=True, kw_only=True)
class UnitData:
    """inputs: the unit's arguments by name, [R, ...] each. constants: arguments that are no tensors.

    target: what it should return, [R, ...]. calls_R: int64.
    """

    inputs: Mapping[str, Tensor]
    constants: Mapping[str, Any]
    target: Tensor
    calls_R: Tensor

    def __len__(self) -> int:
        return len(self.calls_R)

    def output(self, unit: nn.Module, rows: Any) -> Tensor:
        """What the unit makes of some rows."""
        inputs = {name: value[rows] for name, value in self.inputs.items()}
        return _first(unit(**inputs, **self.constants))


def block_units(network: CutNetwork, layers: Iterable[str]) -> dict[str, list[str]]:
    """The network's units in order, with the quantized layers inside; units without one are left out.

    layers: names of the quantized Conv2d and Linear. Raises ValueError for one that is in no unit.
    """
    left = list(layers)
    units = {}
    for unit in network.units():
        inside = [name for name in left if name == unit or name.startswith(f"{unit}.")]
        left = [name for name in left if name not in inside]
        if inside:
            units[unit] = inside
    if left:
        raise ValueError(
            f"quantize=reconstruct: {left} are in no unit of this network. Name their part in "
            f"{type(network).__name__}.units, or leave them out with quantize.base.exclude."
        )
    return units


def layer_units(network: CutNetwork, layers: Iterable[str], states: States) -> dict[str, list[str]]:
    """Every quantized layer as a unit of its own, in the order in which a full call of `states` first runs them."""
    order: dict[str, list[str]] = {}
    handles = [
        network.backbone.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: order.setdefault(name, [name]) and None
        )
        for name in layers
    ]
    try:
        states.run(network, full=True)
    finally:
        for handle in handles:
            handle.remove()
    return order


class Collection:
    """The units' inputs in the quantized network and their outputs in the full-precision one, unit by unit.

    Inputs come from the path that is deployed: where a state reuses maps, from the shallow call, so a unit that is
    skipped there gets no rows of such calls. targets: the output of the full network on that state, so that units
    behind the cache also make up for what the maps are off by; or of the cached path, quantization's error alone.

    wait: all passes wait at a unit for the next one, so each network runs once over all states, and all maps that are
    alive there are held; else both networks start again for each unit, batch by batch, which takes (units + 1) / 2
    times as long and no memory. The data are the same, bit for bit. Use as a context; ask for units in their order.
    of_plain: what is taken at a unit of the full-precision network; `of` needs its output.
    """

    def __init__(
        self, units: Iterable[str], groups: list[States], *, quantized: CutNetwork, plain: CutNetwork, calls: RowCalls,
        batch_size: int, targets: Targets, wait: bool, of_plain: Literal["output", "input"] = "output",
    ) -> None:  # fmt: skip
        self._units = list(units)
        self._batches = [[_Batch(states, targets) for states in group.batches(batch_size)] for group in groups]
        self._quantized, self._plain, self._calls, self._wait = quantized, plain, calls, wait
        self._behind = _first if of_plain == "output" else None
        self._stack = ExitStack()

    def __enter__(self) -> "Collection":
        self._stack.enter_context(waiting(self._quantized, self._units))
        self._stack.enter_context(waiting(self._plain, self._units, behind=self._behind))
        self._stack.callback(self._close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, unit: str) -> UnitData:
        """The data of one unit. Raises ValueError for a unit that never runs."""
        module = self._quantized.backbone.get_submodule(unit)
        parts = [_part(module, *found) for found in self.each(unit)]
        first = parts[0]
        assert all(part.constants == first.constants for part in parts), f"{unit}: is called in more than one way"
        return UnitData(
            inputs={name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs},
            constants=first.constants,
            target=torch.cat([part.target for part in parts]),
            calls_R=torch.cat([part.calls_R for part in parts]),
        )

    def each(self, unit: str) -> Iterator[tuple[tuple[Any, Any], Any, Tensor]]:
        """Batch by batch: what the quantized network calls the unit with, positional and by name; what `of_plain` asks
        for; and the call of each row, [R]. Raises ValueError for a unit that never runs."""
        index = self._units.index(unit)
        ran = False
        for group in self._batches:
            for batch in group:
                calls_R = batch.states.calls_R
                try:
                    with self._calls.at(calls_R):
                        found = batch.quantized(self._quantized).at(index)
                    if found is None:
                        break  # which units run is the same for all states of a group
                    plain = batch.plain(self._plain).at(index)
                    assert plain is not None, "runs in the quantized network only"
                    ran = True
                    yield found, plain, calls_R
                finally:
                    if not self._wait:
                        batch.close()
        if not ran:
            states = sum(len(batch.states) for group in self._batches for batch in group)
            raise ValueError(f"quantize.num_states: the unit {unit} ran at none of {states} states. Take more of them.")

    def _close(self) -> None:
        for group in self._batches:
            for batch in group:
                batch.close()


def _part(module: nn.Module, found: tuple[Any, Any], target: Tensor, calls_R: Tensor) -> UnitData:
    arguments = _arguments(module, *found)
    inputs = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    assert all(len(value) == len(calls_R) for value in inputs.values()), "rows come first"
    constants = {name: value for name, value in arguments.items() if name not in inputs}
    return UnitData(inputs=inputs, constants=constants, target=target, calls_R=calls_R)


class _Batch:
    """Some states, and the waiting calls of both networks on them."""

    def __init__(self, states: States, targets: Targets) -> None:
        self.states = states
        self._full = targets == "full"
        self._passes: dict[str, Pass] = {}

    def quantized(self, network: CutNetwork) -> Pass:
        return self._pass("quantized", network, full=False)

    def plain(self, network: CutNetwork) -> Pass:
        return self._pass("plain", network, full=self._full)

    def _pass(self, name: str, network: CutNetwork, *, full: bool) -> Pass:
        if name not in self._passes:
            self._passes[name] = Pass(network, self.states, full=full)
        return self._passes[name]

    def close(self) -> None:
        while self._passes:
            self._passes.popitem()[1].close()


def _arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the module is called with, by argument name."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()  # full and shallow calls spell the same call in different ways
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            assert not value, "is called with unnamed arguments"
        else:
            found[name] = value
    return found


def _first(out: Any) -> Tensor:
    """diffusers' transformers return tuples of one."""
    tensor: Tensor = out if isinstance(out, Tensor) else out[0]
    return tensor
