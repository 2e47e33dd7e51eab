"""Improved precision and recall: the share of samples on the data's manifold, and of the data on the samples'.

arXiv:1904.06991. The manifold of a set is the union of closed balls, one around each image, out to its k-th nearest
neighbour in the set. Legend of shape suffixes: N sample, M reference image, F feature, B block of rows, J near
neighbour, R draw.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.contracts import Better, Drawn
from cq.core.values import Count
from cq.evaluate.bootstrap import METHOD, Interval, interval_around, interval_of_mean
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score

BLOCK = 1000  # rows of a distance matrix held at once
HALVES = "95 % over halves of the images drawn without replacement, re-centred percentiles"


def distances(left_NF: Tensor, right_MF: Tensor) -> Tensor:
    """Euclidean distances [N, M]: 0 between equal rows, and the same from either side, to the last digit.

    By way of a matrix product they are neither, and an image on the rim of a ball must count as inside.
    """
    return torch.cdist(left_NF, right_MF, compute_mode="donot_use_mm_for_euclid_dist")


def neighbours(rows_NF: Tensor, *, depth: int) -> tuple[Tensor, Tensor]:
    """The `depth` nearest other rows of each row, nearest first: distances and row numbers, [N, J] each.

    Copies of a row are others. J is `depth`, or N - 1 where that is less. Time grows as N^2 F.
    """
    near, which = [], []
    for start, block_BF in zip(range(0, len(rows_NF), BLOCK), torch.split(rows_NF, BLOCK), strict=True):
        distance_BN = distances(block_BF, rows_NF)
        distance_BN[:, start : start + BLOCK].fill_diagonal_(torch.inf)
        near_BJ, which_BJ = distance_BN.topk(min(depth, len(rows_NF) - 1), largest=False)
        near.append(near_BJ)
        which.append(which_BJ)
    return torch.cat(near), torch.cat(which)


def radii_of_draw(near_NJ: Tensor, which_NJ: Tensor, drawn_N: Tensor, *, k: int) -> Tensor:
    """Distance of each drawn row to its k-th nearest drawn other, [N]; -1 for rows not drawn: a ball without points.

    Where fewer than k of the J neighbours were drawn, the farthest stands in.
    """
    before_N = (drawn_N[which_NJ].cumsum(1) < k).sum(1)  # neighbours that come before the k-th drawn one
    radius_N = near_NJ.gather(1, before_N.clamp(max=near_NJ.shape[1] - 1)[:, None])[:, 0]
    return torch.where(drawn_N, radius_N, -1.0)


def on_manifold(points_NF: Tensor, centres_MF: Tensor, radius_RM: Tensor) -> Tensor:
    """Whether each point lies in any of the closed balls, for each row of radii, bool [R, N].

    Time grows as N M (F + R), memory as M times `BLOCK`.
    """
    parts = []
    for block_BF in torch.split(points_NF, BLOCK):
        distance_BM = distances(block_BF, centres_MF)
        parts.append(torch.stack([(distance_BM <= radius_M).any(1) for radius_M in radius_RM]))
    return torch.cat(parts, dim=1)


def precision_of_samples(samples_NF: Tensor, reference_MF: Tensor, *, k: int) -> Tensor:
    """Whether each sample lies on the manifold of the reference, bool [N]; its mean is the precision (Eq. 2)."""
    radius_M = neighbours(reference_MF, depth=k)[0][:, k - 1]
    return on_manifold(samples_NF, reference_MF, radius_M[None])[0]


def recall_of_draws(samples_NF: Tensor, reference_MF: Tensor, drawn_RN: Tensor, *, k: int) -> Tensor:
    """Share of the reference on the manifold of the drawn samples alone (Eq. 2), for each row of draws, float64 [R].

    drawn_RN: bool, each row all samples or at least half of them. So many neighbours are kept that a half without
    k of them has probability below 1e-14.
    """
    near_NJ, which_NJ = neighbours(samples_NF, depth=4 * k + 48)
    radius_RN = torch.stack([radii_of_draw(near_NJ, which_NJ, drawn_N, k=k) for drawn_N in drawn_RN])
    return on_manifold(reference_MF, samples_NF, radius_RN).double().mean(1)


def drawn_halves(num_images: int, *, resamples: int, seed: int) -> Iterator[Tensor]:
    """`resamples` times: which images are in a half (rounded down), drawn without replacement, bool [N]."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(resamples):
        drawn_N = torch.zeros(num_images, dtype=torch.bool)
        drawn_N[torch.randperm(num_images, generator=generator)[: num_images // 2]] = True
        yield drawn_N


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall(AgainstReference):
    """`precision_NETWORK` and `recall_NETWORK`: improved precision and recall in the pooled features of a network.

    Against the reference's stored subset of images. Deviation: the two sets need not be of one size, so numbers of
    other counts are not comparable; the protocol holds both. k: which neighbour a ball reaches out to; 3 in the paper.

    Both intervals say how far the number would move had other samples been drawn, the reference being fixed.
    Precision is a mean over samples: the usual bootstrap, of no width at 0 and at 1. Recall is not: its balls depend on
    the other samples, and the copies in a bootstrap shrink them (by which recall falls by a tenth and more). So halves
    are drawn without replacement. About the whole a half spreads as a whole does about the truth, its variance being
    that of one image times 2/N - 1/N (delete-half jackknife, Shao and Wu 1989); then moved to the value as elsewhere.
    """

    k: Count

    @property
    def better(self) -> Better:
        return {self.key("precision"): "up", self.key("recall"): "up"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k={self.k}: a ball reaches out to the k-th neighbour, so at least 1. 3 is usual.")

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where an image of a half of so few has no k-th neighbour, too."""
        super().check(drawn)
        self._check_counts(drawn.num_images, self.k + 1)

    def _check_counts(self, num_images: int, num_reference: int) -> None:
        if num_images < 2 * (self.k + 1) or num_reference < self.k + 1:
            raise ValueError(
                f"k={self.k}: needs {2 * (self.k + 1)} samples and {self.k + 1} reference images, so that each of a "
                f"half has {self.k} others; there are {num_images} and {num_reference}. Sample more images, or lower k."
            )

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        found, reference = self.compare(context)
        samples_NF, reference_MF = found.pooled_NF, reference.subset_MF.double()
        num = len(samples_NF)
        self._check_counts(num, len(reference_MF))
        halves = drawn_halves(num, resamples=self.resamples, seed=self.bootstrap_seed)
        drawn_RN = torch.stack([torch.ones(num, dtype=torch.bool), *halves])  # row 0: the images as they are
        recall_R = recall_of_draws(samples_NF, reference_MF, drawn_RN, k=self.k)
        recall = float(recall_R[0])
        precise_N = precision_of_samples(samples_NF, reference_MF, k=self.k).double()
        of_precision = interval_of_mean(precise_N, resamples=self.resamples, seed=self.bootstrap_seed)
        precision, of_recall = float(precise_N.mean()), interval_around(recall, recall_R[1:])
        shares = {
            self.key("precision"): (precision, of_precision, METHOD, "samples on the reference's manifold"),
            self.key("recall"): (recall, of_recall, HALVES, "reference on the samples' manifold"),
        }
        scores = {}
        for name, (value, interval, method, share) in shares.items():
            low, high = _within_unit(interval)
            definition = f"share of {share}: balls to the k-th neighbour, pooled features"
            protocol = self.protocol(
                context,
                name,
                reference,
                method=method,
                definition=definition,
                k=self.k,
                num_reference=len(reference_MF),
            )
            scores[name] = Score(value=value, low=low, high=high, better="up", protocol=protocol)
        return scores


def _within_unit(interval: Interval) -> Interval:
    """Shares end at 0 and 1; moving an interval may have pushed an end beyond."""
    return Interval(*(min(max(end, 0.0), 1.0) for end in interval))
