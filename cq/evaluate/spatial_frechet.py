"""sFID: the same distance in features that still know where things are (arXiv:2103.03841)."""

from collections.abc import Mapping
from dataclasses import dataclass

from cq.core.contracts import Better, Drawn
from cq.evaluate.gaussian import score_frechet
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class SpatialFrechet(AgainstReference):
    """`sfid_NETWORK`: Frechet distance in the spatial features of a network. Not an Inception sFID.

    Eight channels of a middle map of our own, averaged over a 4 x 4 grid and flattened; of EfficientNet's last map.
    """

    @property
    def better(self) -> Better:
        return {self.key("sfid"): "down"}

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole, too."""
        super().check(drawn)
        self.check_rank(drawn, "spatial_mu_S")

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        found, reference = self.compare(context)
        definition = "squared Frechet distance, spatial features, clean-fid"
        score = score_frechet(
            found.spatial_NF,
            reference.spatial_mu_S,
            reference.spatial_sigma_SS,
            protocol=self.protocol(context, name, reference, definition=definition),
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {name: score}
