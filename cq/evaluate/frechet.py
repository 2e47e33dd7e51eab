"""Frechet distance between the pooled features of the samples and of the data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cq.core.contracts import Better, Drawn
from cq.evaluate.gaussian import check_count, score_frechet
from cq.evaluate.own_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference import dimensions


@dataclass(frozen=True, kw_only=True)
class Frechet(AgainstReference):
    """`frechet_own`: Frechet distance in the pooled features of our own network. Not an Inception FID."""

    better: ClassVar[Better] = {"frechet_own": "down"}

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole, too."""
        super().check(drawn)
        check_count(drawn.num_images, dimensions(self.reference, "mu_F"))

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        found, reference = self.compare(context)
        definition = "squared Frechet distance, pooled features, clean-fid"
        score = score_frechet(
            found.pooled_NF,
            reference.mu_F,
            reference.sigma_FF,
            protocol=self.protocol(context, "frechet_own", reference, definition=definition),
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {"frechet_own": score}
