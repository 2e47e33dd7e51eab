"""Inception score, with the classes of a network: sure of each image, and of all classes over the set.

arXiv:1606.03498, section 4. Legend of shape suffixes: N image, K class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cq.core.contracts import Better
from cq.evaluate.bootstrap import interval_around, resampled_counts
from cq.evaluate.in_features import InFeatures
from cq.evaluate.protocol import EvaluationContext, Score


def inception_score(logits_NK: Tensor, weights_N: Tensor) -> Tensor:
    """exp of the mean over images of KL(p(k | image) || p(k)), p(k) the mean over images; float64 scalar.

    Deviation: over all images at once, not the mean of ten splits, which depends on their order (arXiv:1801.01973).
    1 where every image gets the same answer, K for sure answers spread evenly.
    """
    logs_NK = logits_NK.double().log_softmax(1)
    share_N = weights_N.double() / weights_N.sum()
    marginal_K = share_N @ logs_NK.exp()
    return torch.exp(share_N @ (logs_NK.exp() * logs_NK).sum(1) - torch.xlogy(marginal_K, marginal_K).sum())


@dataclass(frozen=True, kw_only=True)
class InceptionScore(InFeatures):
    """`inception_score_NETWORK`: the score of its class probabilities. Not an Inception number."""

    @property
    def better(self) -> Better:
        return {self.key("inception_score"): "up"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        network, found = self.look(context)
        num = len(found.logits_NK)
        value = float(inception_score(found.logits_NK, torch.ones(num)))
        counts = resampled_counts(num, resamples=self.resamples, seed=self.bootstrap_seed)
        resampled_R = torch.stack([inception_score(found.logits_NK, counts_N) for counts_N in counts])
        low, high = interval_around(value, resampled_R)
        protocol = context.protocol(
            name,
            {
                "definition": "exp mean KL of class probabilities, one split",
                "features": network.digest,
                "interval": self.interval(),
            },
        )
        score = Score(value=value, low=max(low, 1.0), high=high, better="up", protocol=protocol)
        return {name: score}
