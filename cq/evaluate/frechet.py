"""Frechet distance between the pooled features of the samples and of the data set."""

from collections.abc import Mapping
from dataclasses import dataclass

from cq.core.contracts import Better, Drawn
from cq.evaluate.gaussian import score_frechet
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class Frechet(AgainstReference):
    """`frechet_NETWORK`: Frechet distance in the pooled features of a network. Not an Inception FID."""

    @property
    def better(self) -> Better:
        return {self.key("frechet"): "down"}

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole, too."""
        super().check(drawn)
        self.check_rank(drawn, "mu_F")

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        found, reference = self.compare(context)
        definition = "squared Frechet distance, pooled features, clean-fid"
        score = score_frechet(
            found.pooled_NF,
            reference.mu_F,
            reference.sigma_FF,
            protocol=self.protocol(context, name, reference, definition=definition),
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {name: score}
