"""A network on the meta device, filled with stored weights: no checkpoint of it was ever loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from cq.adapt.in_memory import plain
from cq.core.artifacts import QuantParams
from cq.engine.stored_weights import StoredWeights, without_codes


class Filled:
    """A pipeline's network that holds what stored weights have for it, until it is emptied.

    Weights that are held in codes are nowhere in it, but for the block of `whole`, where they stand on the meta device
    to say their shapes: so what asks the network for its device and number type finds those of the other parameters.
    Raises ValueError for another network than the stored one, or a file that lacks some of it.
    """

    def __init__(self, network: Any, stored: StoredWeights, where: str) -> None:
        _check_config(network, stored, where)
        self._network, self._stored = network, stored
        parts = [(network.get_submodule(path), part) for path, part in stored.load().named_modules()]
        self._before = [(own, {**own._parameters}, {**own._buffers}) for own, _ in parts]
        for own, part in parts:
            own._parameters.update(part._parameters)
            own._buffers.update(part._buffers)
        self._coded: list[tuple[nn.Module, str, nn.Parameter]] = [
            (own, name, weight)
            for own, _ in parts
            for name, weight in own._parameters.items()
            if weight is not None and weight.is_meta
        ]
        self._take_out()

    @property
    def made_of(self) -> str:
        """`parameters_digest` of the checkpoint that the weights were made of."""
        return self._stored.made_of

    @property
    def dtype(self) -> str:
        """Of the checkpoint, and of all that is not in codes."""
        return self._stored.dtype

    @contextmanager
    def whole(self, params: QuantParams) -> Iterator[QuantParams]:
        """The network has all its parameters, those in codes on the meta device; yields `params` with the codes.

        Raises ValueError for parameters of another Acceleration.
        """
        self._stored.check(params)
        where = next(self._network.parameters()).device
        beside = without_codes(params)
        moved = {key: tensor.to(where) if ".weight" in key else tensor for key, tensor in beside.tensors.items()}
        try:
            for own, name, weight in self._coded:
                own._parameters[name] = weight
            yield self._stored.joined(replace(beside, tensors=moved))
        finally:
            self._take_out()

    def empty(self) -> None:
        """Leave the network as it was."""
        for own, parameters, buffers in self._before:
            own._parameters.update(parameters)
            own._buffers.update(buffers)

    def _take_out(self) -> None:
        for own, name, _ in self._coded:
            own._parameters[name] = None


def _check_config(network: Any, stored: StoredWeights, where: str) -> None:
    """Raise ValueError for a network that is not the stored one by its configuration."""
    own = {"_class_name": type(network).__name__, **plain(network.config)}
    for key, value in stored.config.items():
        if own.get(key) != value:
            name = "" if key == "_class_name" else f".config.{key}"
            raise ValueError(
                f"{where}{name}={own.get(key)}: the stored weights are of a network with {value} there. "
                "Build the pipeline around cq.load(FOLDER).network(), or around its checkpoint."
            )
