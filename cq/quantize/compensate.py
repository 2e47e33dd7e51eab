"""Rounding with compensated errors (GPTQ, arXiv:2210.17323): one layer, from second moments of its inputs.

What rounding a weight does to the output, the weights of its row that are not rounded yet make up for.

Legend: G group of a convolution, else 1; O output channel of a group; D column, an input of such a channel at a kernel
position; S sample, a position of an image in a call. Moments and solutions are float64.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cq.quantize.affine import dequantize, quantize

CHUNK = 2**24  # numbers of unfolded inputs at a time: 64 MiB
BLOCK = 64  # columns whose errors reach the columns behind them in one product

Layer = nn.Conv2d | nn.Linear


def samples(layer: Layer, x: Tensor) -> Tensor:
    """What each output position is a product of with the weights, [G, S, D]: a convolution's input unfolded."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)[None]
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice)
    unfolded = nn.functional.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return unfolded.view(len(x), layer.groups, -1, unfolded.shape[-1]).permute(1, 0, 3, 2).flatten(1, 2)


def by_group(layer: Layer, weight: Tensor) -> Tensor:
    """A tensor of the layer's weight's shape as [G, O, D]."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, len(weight) // groups, -1)


@dataclass(kw_only=True)
class Moments:
    """Sums over samples: x, which a layer gets, and x0, which it should have got.

    gram_GDD: of x x^T. cross_GDD: of (x0 - x) x^T. off: of the squares of W (x0 - x). count: numbers of the output.
    """

    layer: Layer
    gram_GDD: Tensor = field(init=False)
    cross_GDD: Tensor = field(init=False)
    off: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        groups, _, columns = by_group(self.layer, self.layer.weight).shape
        self.gram_GDD = self.layer.weight.new_zeros(groups, columns, columns, dtype=torch.float64)
        self.cross_GDD = torch.zeros_like(self.gram_GDD)

    @torch.no_grad()
    def add(self, x: Tensor, x0: Tensor) -> None:
        """Inputs [R, ...] as the layer is called with them. Products are float32, CHUNK numbers at a time."""
        weight_GOD = by_group(self.layer, self.layer.weight)
        rows = max(1, CHUNK // (x[0].numel() * self.layer.weight[0, 0].numel()))
        for some, others in zip(torch.split(x, rows), torch.split(x0, rows), strict=True):
            x_GSD = samples(self.layer, some)
            off_GSD = samples(self.layer, others) - x_GSD
            self.gram_GDD += x_GSD.mT @ x_GSD
            self.cross_GDD += off_GSD.mT @ x_GSD
            out_GSO = off_GSD @ weight_GOD.mT
            self.off += float(out_GSO.double().square().sum())
            self.count += out_GSO.numel()

    def error(self, rounded_GOD: Tensor) -> float:
        """Mean squared difference between the output with rounded weights on x, and with the layer's own on x0."""
        weight_GOD = by_group(self.layer, self.layer.weight.detach()).double()
        lost_GOD = weight_GOD - rounded_GOD
        either = 2 * weight_GOD @ self.cross_GDD + lost_GOD @ self.gram_GDD
        return (self.off + float((either * lost_GOD).sum())) / self.count


def damped(gram_GDD: Tensor, share: float) -> Tensor:
    """With `share` of the mean of the diagonal added to the diagonal."""
    mean_G = gram_GDD.diagonal(dim1=-2, dim2=-1).mean(-1)
    added_G = torch.where(mean_G > 0, share * mean_G, 1.0)  # where all inputs are zero, any will do
    return gram_GDD + added_G[:, None, None] * torch.eye(gram_GDD.shape[-1], dtype=gram_GDD.dtype).to(gram_GDD.device)


def target(weight_GOD: Tensor, moments: Moments, ridge: float) -> Tensor:
    """The weights whose output on x is nearest to that of `weight_GOD` on x0: W + W cross (gram + ridge)^-1."""
    factor = torch.linalg.cholesky(damped(moments.gram_GDD, ridge))
    missing_GOD = weight_GOD @ moments.cross_GDD
    return weight_GOD + torch.cholesky_solve(missing_GOD.mT, factor).mT


def compensated_codes(
    weight_GOD: Tensor, gram_GDD: Tensor, *, scale_GOD: Tensor, zero_point_GOD: Tensor, bits: int
) -> Tensor:
    """Codes int32 [G, O, D] for the float weights, rounded one column after another, the largest inputs first.

    gram_GDD: damped. scale, zero_point: of each weight's grid; they stay.
    """
    order_GD = gram_GDD.diagonal(dim1=-2, dim2=-1).argsort(descending=True)
    by_column = order_GD[:, None].expand_as(weight_GOD)
    weight_GOD, scale_GOD, zero_point_GOD = (
        tensor.gather(2, by_column).clone() for tensor in (weight_GOD, scale_GOD, zero_point_GOD)
    )
    gram_GDD = gram_GDD.gather(1, order_GD[:, :, None].expand_as(gram_GDD))
    gram_GDD = gram_GDD.gather(2, order_GD[:, None].expand_as(gram_GDD))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram_GDD))
    reach_GDD = torch.linalg.cholesky(inverse, upper=True)
    codes_GOD = torch.empty_like(weight_GOD, dtype=torch.int32)
    columns = weight_GOD.shape[2]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = weight_GOD.new_zeros(*weight_GOD.shape[:2], end - start)
        for at in range(start, end):
            grid = scale_GOD[..., at], zero_point_GOD[..., at]
            codes_GOD[..., at] = quantize(weight_GOD[..., at], *grid, bits)
            lost_GO = weight_GOD[..., at] - dequantize(codes_GOD[..., at], *grid)
            error_GO = lost_GO / reach_GDD[:, at, at, None]
            weight_GOD[..., at + 1 : end] -= error_GO[..., None] * reach_GDD[:, None, at, at + 1 : end]
            errors[..., at - start] = error_GO
        weight_GOD[..., end:] -= errors @ reach_GDD[:, start:end, end:]
    return torch.empty_like(codes_GOD).scatter_(2, by_column, codes_GOD)
