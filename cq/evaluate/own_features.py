"""What metrics in the features of our own network share: the settings, the network, the reference and the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cq.core.contracts import Drawn
from cq.core.values import Batch, Resamples
from cq.evaluate.bootstrap import METHOD, check_resamples
from cq.evaluate.features import FeatureFolder, FeatureNetwork
from cq.evaluate.protocol import EvaluationContext
from cq.evaluate.reference import ReferenceStatistics, check_network, load_reference

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures


@dataclass(frozen=True, kw_only=True)
class InOwnFeatures:
    """features: a folder (`zoo:features`). batch_size: of the extraction. resamples: of the bootstrap."""

    features: str
    batch_size: Batch
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the network is not there, is damaged or takes other images; no weights are loaded."""
        channels = FeatureFolder.of(self.features).built.config.in_channels
        if channels != drawn.shape[0]:
            raise ValueError(
                f"features={self.features!r}: takes images of {channels} channel(s), and this model draws "
                f"{drawn.shape[0]}. zoo:features is for grey images and zoo:scene_features for colour; "
                "evaluate=fidelity needs none."
            )

    def look(self, context: EvaluationContext) -> tuple[FeatureNetwork, "ImageFeatures"]:
        """The network, and the features of the samples; both are loaded or computed once for all metrics of a run."""
        network = context.cache.network(self.features)
        found = context.cache.features(context.samples.images_NCHW, network, batch_size=self.batch_size)
        return network, found

    def interval(self, method: str = METHOD) -> str:
        """What the protocol says of the interval."""
        return f"{method}, {self.resamples} resamples"


@dataclass(frozen=True, kw_only=True)
class AgainstReference(InOwnFeatures):
    """reference: a folder with the statistics of the data set in the same features (`zoo:reference`)."""

    reference: str

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the reference is not there or was made with another network, too."""
        super().check(drawn)
        check_network(self.reference, FeatureFolder.of(self.features).digest)

    def compare(self, context: EvaluationContext) -> tuple["ImageFeatures", ReferenceStatistics]:
        """The features of the samples and the statistics of the data set. Raises ValueError for another network's."""
        network, found = self.look(context)
        return found, load_reference(self.reference, network)

    def protocol(
        self, context: EvaluationContext, metric: str, reference: ReferenceStatistics, *, method: str = METHOD,
        **details: Any,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Everything that must agree before two of these numbers are compared. details: what the metric adds."""
        judge = {"features": reference.network, "reference": reference.digest, "interval": self.interval(method)}
        return context.protocol(metric, {**details, **judge})
