"""Kernel distance: the squared maximum mean discrepancy under a cubic kernel, unbiased.

KID of arXiv:1801.01401 (Eq. 4 and section 4). Unlike a Frechet distance its mean does not depend on the number of
images. Legend of shape suffixes: N image, M reference image, F feature, R resample, B block of columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.contracts import Better
from cq.evaluate.bootstrap import interval_around, resampled_counts
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score

DEGREE = 3
DEFINITION = f"unbiased squared MMD, kernel (xy / F + 1)^{DEGREE}, pooled features, no subsets"
BLOCK = 1000  # columns of the kernel matrix held at once


def kernel_distance(counts_RN: Tensor, features_NF: Tensor, reference_MF: Tensor) -> Tensor:
    """Unbiased squared MMD [R] between the features, row n taken counts_RN[r, n] times, and the reference.

    Deviation: over all images at once. The usual mean over random subsets estimates this same number, with noise.
    Two copies of one image are no pair of the population, so only pairs of different rows enter.
    All float64. Time grows as N^2 (F + R), memory as N times `BLOCK`. Raises ValueError for fewer than two rows.
    """
    for name, rows in (("samples", features_NF), ("reference", reference_MF)):
        if len(rows) < 2:
            raise ValueError(f"{name}: {len(rows)} images form no pair. Give at least 2.")
    across_N = _kernel(features_NF, reference_MF).mean(1)
    ones_1M = reference_MF.new_ones(1, len(reference_MF))
    across_R = counts_RN @ across_N / counts_RN.sum(1)
    return _within(counts_RN, features_NF) + _within(ones_1M, reference_MF) - 2 * across_R


def _kernel(left_NF: Tensor, right_MF: Tensor) -> Tensor:
    return (left_NF @ right_MF.T / left_NF.shape[1] + 1) ** DEGREE


def _within(counts_RN: Tensor, rows_NF: Tensor) -> Tensor:
    """Mean kernel of pairs of different rows, weighted by their counts, [R]."""
    total_R = counts_RN.new_zeros(len(counts_RN))
    for first in range(0, len(rows_NF), BLOCK):
        columns = slice(first, first + BLOCK)
        kernel_NB = _kernel(rows_NF, rows_NF[columns])
        kernel_NB[columns].fill_diagonal_(0)
        total_R += ((counts_RN @ kernel_NB) * counts_RN[:, columns]).sum(1)
    pairs_R: Tensor = counts_RN.sum(1) ** 2 - (counts_RN**2).sum(1)
    return total_R / pairs_R


@dataclass(frozen=True, kw_only=True)
class Kernel(AgainstReference):
    """`kid_NETWORK`: kernel distance in the pooled features of a network. Not an Inception KID.

    Measured against the reference's stored subset of images. Being unbiased it can fall slightly below zero.
    """

    @property
    def better(self) -> Better:
        return {self.key("kid"): "down"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        found, reference = self.compare(context)
        num = len(found.pooled_NF)
        counts = resampled_counts(num, resamples=self.resamples, seed=self.bootstrap_seed)
        counts_RN = torch.stack([torch.ones(num, dtype=torch.float64), *counts])  # row 0: the images as they are
        distances_R = kernel_distance(counts_RN, found.pooled_NF, reference.subset_MF.double())
        value = float(distances_R[0])
        low, high = interval_around(value, distances_R[1:])
        protocol = self.protocol(context, name, reference, definition=DEFINITION)
        return {name: Score(value=value, low=low, high=high, better="down", protocol=protocol)}
