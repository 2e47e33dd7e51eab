"""By how much the kernel distance to the data set differs from that of the full-precision images of the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.contracts import Better
from cq.evaluate.bootstrap import interval_around, resampled_counts
from cq.evaluate.fidelity import protocol_of_pairs
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.kernel import DEFINITION, kernel_distance
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class KernelDifference(AgainstReference):
    """`kid_difference_NETWORK_fp`: the kernel distance of the samples less that of the baseline; above 0 is worse.

    A resample draws seeds, and takes both images of each. What the two sets share then cancels, so that the interval is
    several times narrower than that of either distance: it holds 0 where nothing tells the two from one another.
    """

    @property
    def better(self) -> Better:
        return {f"{self.key('kid_difference')}_fp": "down"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        _, baseline = context.pairs()
        found, reference = self.compare(context)
        theirs_NF = context.cache.features(
            baseline.images_NCHW, self.network(context), batch_size=self.batch_size
        ).pooled_NF
        counts = resampled_counts(len(theirs_NF), resamples=self.resamples, seed=self.bootstrap_seed)
        counts_RN = torch.stack([torch.ones(len(theirs_NF), dtype=torch.float64), *counts])
        real_MF = reference.subset_MF.double()
        differences_R: Tensor = kernel_distance(counts_RN, found.pooled_NF, real_MF) - kernel_distance(
            counts_RN, theirs_NF, real_MF
        )
        value = float(differences_R[0])
        low, high = interval_around(value, differences_R[1:])
        judge = {"features": reference.network, "reference": reference.digest}
        details = {"definition": f"difference of two: {DEFINITION}", **judge}
        protocol = protocol_of_pairs(context, name, details, resamples=self.resamples)
        return {name: Score(value=value, low=low, high=high, better="down", protocol=protocol)}
