"""The best full precision that a CPU is known to give: oneDNN's own float32 operators with packed weights.

`torch.nn.functional.linear` multiplies by another library, which has half of oneDNN's speed on some processors, and its
convolutions pack their weights at every call. A baseline of measurements, and no engine.
"""

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A Linear whose weight is packed once for each number of rows it multiplies."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._packed: dict[int, Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Of its packed weights."""
        return len(self._packed) * self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        rows = x.numel() // self.in_features
        if rows not in self._packed:
            self._packed[rows] = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed[rows], self.bias, "none", [], "")
        return out


class PackedConv2d(nn.Module):
    """A Conv2d whose weight is packed once for each size of its input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._options: list[Any] = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        self._packed: dict[tuple[int, ...], Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Of its packed weights."""
        return len(self._packed) * self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, O, H', W'], channel after channel in memory."""
        x = x.contiguous(memory_format=torch.channels_last)
        size = tuple(x.shape)
        if size not in self._packed:
            self._packed[size] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), *self._options, list(size)
            )
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed[size], self.bias, *self._options, "none", [], ""
        )
        return out


def pack_layers(network: nn.Module) -> None:
    """Put every Conv2d and Linear of `network` on packed weights, in place; others' padding than with zeros stays."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, PackedLinear(child))
            elif isinstance(child, nn.Conv2d) and child.padding_mode == "zeros" and isinstance(child.padding, tuple):
                setattr(parent, name, PackedConv2d(child))
