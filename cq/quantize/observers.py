"""Ranges for the quantizer, from values seen: min-max, percentile, error search over shrunken ranges, around zero.

Values come as support points with counts: the values themselves for weights, the bins of a histogram for
activations. Legend: R rows, M support points, K candidates.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from cq.core.values import Within
from cq.quantize.affine import choose_qparams, round_to_grid

_ELEMENTS_AT_ONCE = 2**17  # candidates are tried together as far as the cache reaches: histograms in one pass


@dataclass(frozen=True, kw_only=True)
class Support:
    """values_RM with counts_RM (float64), and the exact extremes low_R, high_R (float32)."""

    values_RM: Tensor
    counts_RM: Tensor
    low_R: Tensor
    high_R: Tensor

    @staticmethod
    def of_rows(values_RM: Tensor) -> "Support":
        values = values_RM.float()
        return Support(
            values_RM=values,
            counts_RM=torch.ones_like(values, dtype=torch.float64),
            low_R=values.amin(1),
            high_R=values.amax(1),
        )


@runtime_checkable
class Observer(Protocol):
    """Chooses the range that the quantizer will cover."""

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        """low_R and high_R, float32."""


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Everything that was seen."""

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        return support.low_R, support.high_R


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """All but (100 - percentile) / 2 percent of the values at either end."""

    percentile: float

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile={self.percentile}: must lie in (50, 100]; 99.9 is usual.")

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        order = support.values_RM.argsort(1)
        values = support.values_RM.gather(1, order)
        mass = support.counts_RM.gather(1, order).cumsum(1)
        tail = mass[:, -1:] * (100 - self.percentile) / 200
        low = values.gather(1, torch.searchsorted(mass, tail, right=True).clamp(max=values.shape[1] - 1))
        high = values.gather(1, torch.searchsorted(mass, mass[:, -1:] - tail).clamp(max=values.shape[1] - 1))
        return torch.maximum(low[:, 0], support.low_R), torch.minimum(high[:, 0], support.high_R)


@dataclass(frozen=True, kw_only=True)
class ErrorSearch:
    """The range, among shrunken min-max ranges, with the least mean |x - Q(x)|^power (Q-Diffusion's search).

    candidates shrink factors 1, 1 - step, ...; the largest range wins a tie. The grid searched is the grid used.
    """

    power: Annotated[float, Within(0, 100, "2.4")]
    candidates: Annotated[int, Within(1, 10_000, "40")]
    step: float

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"power={self.power}: the exponent of the error must be positive; 2.4 is usual.")
        if self.candidates < 1 or self.step <= 0 or (self.candidates - 1) * self.step >= 1:
            raise ValueError(
                f"candidates={self.candidates}, step={self.step}: shrink factors 1 - i * step must stay above 0."
            )

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        factors_K = 1 - self.step * torch.arange(self.candidates, dtype=torch.float64)
        low_KR = (factors_K[:, None] * support.low_R).float()
        high_KR = (factors_K[:, None] * support.high_R).float()
        scale_KR, zero_point_KR = choose_qparams(low_KR, high_KR, bits)
        at_once = max(1, _ELEMENTS_AT_ONCE // support.values_RM.numel())
        totals: list[Tensor] = []
        for first in range(0, self.candidates, at_once):
            some = slice(first, first + at_once)
            grid = round_to_grid(support.values_RM, scale_KR[some, :, None], zero_point_KR[some, :, None], bits)
            error = grid.sub_(support.values_RM).abs_().pow_(self.power)
            totals.append((error * support.counts_RM).sum(2))
        best_1R = torch.cat(totals).argmin(0, keepdim=True)
        return low_KR.gather(0, best_1R)[0], high_KR.gather(0, best_1R)[0]


@dataclass(frozen=True, kw_only=True)
class Symmetric:
    """The base's range, widened to a grid around zero: its zero point is 2^(b-1), half of the number of its codes.

    So a code less one half of the range is the real value in steps, and at 8 bits fits int8: integer kernels multiply
    it as it is. All codes count, -128 to 127 at 8 bits: leaving out the lowest would cost one level of sixteen at 4.
    The grid that a searching base searches is the grid used.
    """

    base: Observer

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        low_R, high_R = _around_zero(support.low_R, support.high_R, bits)
        return _around_zero(*self.base.range(replace(support, low_R=low_R, high_R=high_R), bits), bits)


@dataclass(frozen=True, kw_only=True)
class Widened:
    """The base's range times `factor`, around zero: room for values that calibration has not seen."""

    base: Observer
    factor: float

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        low_R, high_R = self.base.range(support, bits)
        return self.factor * low_R, self.factor * high_R


def _around_zero(low_R: Tensor, high_R: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The ends of the least symmetric grid that covers a range."""
    half = 2 ** (bits - 1)
    scale_R = torch.maximum(-low_R.double() / half, high_R.double() / (half - 1))
    return (-half * scale_R).float(), ((half - 1) * scale_R).float()


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Nothing is observed: inputs of layers get the scale that just covers them, as they come.

    linear, conv: whose values share a scale. In a linear layer a token's, every vector that it multiplies; in a
    convolution, whose products mix places, an image's. static: scales are calibrated, by `base`, as those of the
    operands of attention always are.
    """

    linear: Literal["token", "static"]
    conv: Literal["image", "static"]
    base: Observer

    def range(self, support: Support, bits: int) -> tuple[Tensor, Tensor]:
        return self.base.range(support, bits)

    def dynamic(self, kind: str) -> str:
        """Of a layer of that kind, as `LayerPolicy` has it."""
        found = {"linear": self.linear, "conv": self.conv}.get(kind, "static")
        return "" if found == "static" else found


class Histogram:
    """Counts of values on [-bound, bound), bound a power of two that doubles as larger values arrive.

    Bin edges are multiples of a power of two: which bin a value falls into is exact, and doubling merges
    neighbouring bins exactly. So the result does not depend on the order of updates, and memory does not grow.
    """

    BINS = 4096

    def __init__(self) -> None:
        self.bound = 2.0**-20
        self.counts = torch.zeros(self.BINS, dtype=torch.float64)
        self.low = float("inf")
        self.high = float("-inf")

    def update(self, x: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a layer's input is not finite in full precision: check the model's weights and inputs.")
        self.low, self.high = min(self.low, low), max(self.high, high)
        bound = self.bound
        while low < -bound or high >= bound:
            bound *= 2
        half = self.BINS // 2
        if bound > self.bound:
            merged = self.counts.view(-1, min(int(bound / self.bound), half)).sum(1)
            self.counts.zero_()
            self.counts[half - len(merged) // 2 : half + len(merged) // 2] = merged
            self.bound = bound
        # torch.histc would round values near an edge across it, and counts in float32
        bins = x.detach().float().mul(half / self.bound).floor_().add_(half).to(torch.int16)
        self.counts += torch.bincount(bins.flatten(), minlength=self.BINS).cpu()

    def support(self) -> Support:
        """Bin centres and counts as one row; empty bins are left out."""
        width = 2 * self.bound / self.BINS
        centres = (torch.arange(self.BINS, dtype=torch.float64) + 0.5) * width - self.bound
        used = self.counts > 0
        return Support(
            values_RM=centres[used].float()[None].clamp(self.low, self.high),
            counts_RM=self.counts[used][None],
            low_R=torch.tensor([self.low]),
            high_R=torch.tensor([self.high]),
        )
