"""What stands between integer layers, so that no pass is made over a large map that need not: layout, GELU, pieces."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cq.engine.integer import IntegerLayer

LEAST_ROWS, ENTRIES = 256, 2**17  # of a feed-forward's input, in one piece


class ChannelsLast:
    """A network whose input, and so every map behind it, lies channel after channel in memory."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def full(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the network's."""
        return self._network.full(x_NCHW.contiguous(memory_format=torch.channels_last), *args, **kwargs)

    def shallow(self, x_NCHW: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the network's."""
        return self._network.shallow(x_NCHW.contiguous(memory_format=torch.channels_last), *args, **kwargs)


class LinearGELU(nn.Module):
    """An integer layer and the GELU behind it, in one operator."""

    def __init__(self, proj: IntegerLayer, approximate: str) -> None:
        super().__init__()
        self.proj = proj
        self._approximate = approximate

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.proj(hidden_states, gelu=self._approximate)  # type: ignore[no-any-return]


def by_rows(self: nn.Module, hidden_states: Tensor) -> Tensor:
    """Feed-forward layers for some places at a time, whose wide maps then stay in a core's cache."""
    some = torch.split(hidden_states.flatten(0, -2), max(LEAST_ROWS, ENTRIES // hidden_states.shape[-1]))
    parts = [type(self).forward(self, rows) for rows in some]
    return torch.cat(parts).view(*hidden_states.shape[:-1], -1)


def joined(backbone: nn.Module) -> None:
    """Change a twin's backbone in place: GELUs run with the integer layer before them, transformers keep the layout."""
    from diffusers.models.activations import GELU
    from diffusers.models.attention import FeedForward

    for name, module in list(backbone.named_modules()):
        if isinstance(module, GELU) and isinstance(module.proj, IntegerLayer):
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, LinearGELU(module.proj, module.approximate))
        elif isinstance(module, FeedForward):
            module.forward = MethodType(by_rows, module)
        elif hasattr(module, _COPYING):
            setattr(module, _COPYING, MethodType(_as_it_lies, module))


_COPYING = "_get_output_for_continuous_inputs"


def _as_it_lies(
    self: Any, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """diffusers' Transformer2DModel's own, without its copy into the layout that convolutions would copy back."""

    def as_map(x_NLC: Tensor) -> Tensor:
        return x_NLC.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)

    hidden = hidden_states
    hidden = as_map(self.proj_out(hidden)) if self.use_linear_projection else self.proj_out(as_map(hidden))
    return hidden + residual
