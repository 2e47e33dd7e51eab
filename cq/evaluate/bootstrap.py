"""How far a number would move had other images been drawn: the bootstrap over images.

Legend of shape suffixes: N image, R resample.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LEVEL = 0.95
METHOD = "95 % bootstrap over images, re-centred percentiles"


class Interval(NamedTuple):
    low: float
    high: float


def check_resamples(resamples: int) -> None:
    """Raise ValueError where so few resamples leave no tail to read the ends of the interval from."""
    if resamples < 40:
        raise ValueError(
            f"resamples={resamples}: the ends of a 95 % interval are the 2.5 % tails, so at least 40 are needed; "
            "200 is usual."
        )


def resampled_counts(num_images: int, *, resamples: int, seed: int) -> Iterator[Tensor]:
    """`resamples` times: how often each image was drawn, float64 [N] that sums to N.

    Counts stand in for copied rows: every statistic of a resample is a weighted sum over the same features.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        drawn = torch.randint(num_images, (num_images,), generator=generator)
        yield torch.bincount(drawn, minlength=num_images).double()


def interval_around(value: float, resampled_R: Tensor) -> Interval:
    """Percentile interval (Efron and Tibshirani 1993, chapter 13), moved so that its mean falls on `value`.

    Without the move the interval of a Frechet distance lies above the value it is meant to hold: a resample has
    fewer distinct images than the sample, and that bias is far wider than the spread. For a mean nothing moves.
    """
    spread_R = resampled_R - resampled_R.mean()
    tail = (1 - LEVEL) / 2
    ends = torch.quantile(spread_R, torch.tensor([tail, 1 - tail], dtype=spread_R.dtype))
    return Interval(value + float(ends[0]), value + float(ends[1]))


def interval_of_mean(values_N: Tensor, *, resamples: int, seed: int) -> Interval:
    """Interval of the mean of one float64 value an image."""
    counts = resampled_counts(len(values_N), resamples=resamples, seed=seed)
    means_R = torch.stack([(counts_N * values_N).mean() for counts_N in counts])
    return interval_around(float(values_N.mean()), means_R)
