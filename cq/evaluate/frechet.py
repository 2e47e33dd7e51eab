"""Frechet distance between the pooled features of the samples and of the data set."""

from collections.abc import Mapping
from dataclasses import dataclass

from cq.evaluate.bootstrap import METHOD, check_resamples
from cq.evaluate.gaussian import check_count, score_frechet
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference import dimensions, load_reference


@dataclass(frozen=True, kw_only=True)
class Frechet:
    """`frechet_own`: Frechet distance in the pooled features of our own network. Not an Inception FID.

    features, reference: folders (`zoo:features`, `zoo:reference`). batch_size: of the extraction.
    """

    features: str
    reference: str
    batch_size: int
    resamples: int
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    def check_count(self, num_images: int) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole."""
        check_count(num_images, dimensions(self.reference, "mu_F"))

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        network = context.cache.network(self.features)
        reference = load_reference(self.reference, network)
        found = context.cache.features(context.samples.images_NCHW, network, batch_size=self.batch_size)
        protocol = context.protocol(
            "frechet_own",
            {
                "definition": "squared Frechet distance, pooled features, clean-fid",
                "features": network.digest,
                "reference": reference.digest,
                "interval": f"{METHOD}, {self.resamples} resamples",
            },
        )
        score = score_frechet(
            found.pooled_NF,
            reference.mu_F,
            reference.sigma_FF,
            protocol=protocol,
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {"frechet_own": score}
