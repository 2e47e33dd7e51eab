"""sFID: the same distance in features that still know where things are (arXiv:2103.03841)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cq.core.contracts import Better, Drawn
from cq.evaluate.gaussian import check_count, score_frechet
from cq.evaluate.own_features import AgainstReference
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference import dimensions


@dataclass(frozen=True, kw_only=True)
class SpatialFrechet(AgainstReference):
    """`sfid_own`: Frechet distance in the spatial features of our own network. Not an Inception sFID.

    Eight channels of a middle map, averaged over a 4 x 4 grid and flattened.
    """

    better: ClassVar[Better] = {"sfid_own": "down"}

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole, too."""
        super().check(drawn)
        check_count(drawn.num_images, dimensions(self.reference, "spatial_mu_S"))

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        found, reference = self.compare(context)
        definition = "squared Frechet distance, spatial features, clean-fid"
        score = score_frechet(
            found.spatial_NF,
            reference.spatial_mu_S,
            reference.spatial_sigma_SS,
            protocol=self.protocol(context, "sfid_own", reference, definition=definition),
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {"sfid_own": score}
