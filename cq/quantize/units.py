"""A network's units, in the order in which they run, and what goes in and should come out of one of them.

Legend: R row (one state under one condition), K L as in `states`.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cq.contracts import CutNetwork
from cq.quantize.learnable import RowCalls
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


def collect(
    unit: str, groups: list[States], *, quantized: CutNetwork, plain: CutNetwork, calls: RowCalls, batch_size: int,
    targets: Targets,
) -> UnitData:  # fmt: skip
    """The unit's inputs in the quantized network and its output in the full-precision one, for the same states.

    Inputs come from the path that is deployed: where a state reuses maps, from the shallow call, so a unit that is
    skipped there gets no rows of such calls. targets: the output of the full network on that state, so that units
    behind the cache also make up for what the maps are off by; or of the cached path, quantization's error alone.
    Each network runs only as far as the unit. Raises ValueError for a unit that never runs.
    """
    parts: list[UnitData] = []
    for group in groups:
        for states in group.batches(batch_size):
            with calls.at(states.calls_R):
                arguments = _arguments(quantized, unit, states)
            if arguments is None:
                break  # which units run is the same for all states of a group
            inputs = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
            assert all(len(value) == len(states.calls_R) for value in inputs.values()), f"{unit}: rows come first"
            constants = {name: value for name, value in arguments.items() if name not in inputs}
            target = _target(plain, unit, states, full=targets == "full")
            parts.append(UnitData(inputs=inputs, constants=constants, target=target, calls_R=states.calls_R))
    if not parts:
        raise ValueError(
            f"quantize.num_states: the unit {unit} ran at none of {sum(map(len, groups))} states. Take more of them."
        )
    first = parts[0]
    assert all(part.constants == first.constants for part in parts), f"{unit}: is called in more than one way"
    return UnitData(
        inputs={name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs},
        constants=first.constants,
        target=torch.cat([part.target for part in parts]),
        calls_R=torch.cat([part.calls_R for part in parts]),
    )


class _ReachedError(Exception):
    """The unit was reached: the rest of the network need not run."""


def _arguments(network: CutNetwork, unit: str, states: States) -> dict[str, Any] | None:
    """What the unit is called with on the deployed path, by argument name; None where it is not called."""
    module = network.backbone.get_submodule(unit)
    found: dict[str, Any] = {}

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        bound.apply_defaults()  # full and shallow calls spell the same call in different ways
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                found.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                assert not value, f"{unit}: is called with unnamed arguments"
            else:
                found[name] = value
        raise _ReachedError

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        states.run(network, full=False)
    except _ReachedError:
        return found
    finally:
        handle.remove()
    return None


def _target(network: CutNetwork, unit: str, states: States, *, full: bool) -> Tensor:
    found: list[Tensor] = []

    def hook(_: nn.Module, args: Any, out: Any) -> None:
        found.append(_first(out))
        raise _ReachedError

    handle = network.backbone.get_submodule(unit).register_forward_hook(hook)
    try:
        states.run(network, full=full)
    except _ReachedError:
        return found[0]
    finally:
        handle.remove()
    raise AssertionError(f"{unit}: runs in the quantized network only")


def _first(out: Any) -> Tensor:
    """diffusers' transformers return tuples of one."""
    tensor: Tensor = out if isinstance(out, Tensor) else out[0]
    return tensor
