"""What metrics in the features of a network share: the settings, the network, the reference and the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cq.core.contracts import Drawn
from cq.core.values import Batch, Resamples
from cq.evaluate import efficientnet
from cq.evaluate.bootstrap import METHOD, check_resamples
from cq.evaluate.features import Extractor, FeatureFolder, check_shape
from cq.evaluate.gaussian import check_count
from cq.evaluate.protocol import EvaluationContext
from cq.evaluate.real_images import check_real, real_images, statistics_of_images
from cq.evaluate.reference import ReferenceStatistics, check_network, dimensions, load_reference

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures


@dataclass(frozen=True, kw_only=True)
class InFeatures:
    """features: a folder with our own network (`zoo:features`), or `efficientnet.FEATURES`, which others trained.

    batch_size: of the extraction. resamples: of the bootstrap.
    """

    features: str
    batch_size: Batch
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    @property
    def of_imagenet(self) -> bool:
        return self.features == efficientnet.FEATURES

    def key(self, metric: str) -> str:
        """The name of a score; no two networks share one: kid is kid_own, or kid_efficientnet."""
        return f"{metric}_{'efficientnet' if self.of_imagenet else 'own'}"

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the network is damaged or takes other images; no weights are loaded.

        So, too, where a folder is missing; MetricUnavailable where a package is not installed.
        """
        if self.of_imagenet:
            efficientnet.weights_file()
            return check_shape(drawn.shape, efficientnet.NAME)
        channels = FeatureFolder.of(self.features).settings["in_channels"]
        if channels != drawn.shape[0]:
            raise ValueError(
                f"features={self.features!r}: takes images of {channels} channel(s), and this model draws "
                f"{drawn.shape[0]}. zoo:features is for grey images and zoo:scene_features for colour; "
                "evaluate=fidelity needs none."
            )
        return None

    def network(self, context: EvaluationContext) -> Extractor:
        """Loaded once for all metrics of a run."""
        return efficientnet.load() if self.of_imagenet else context.cache.network(self.features)

    def look(self, context: EvaluationContext) -> tuple[Extractor, "ImageFeatures"]:
        """The network, and the features of the samples, which are computed once for all metrics of a run."""
        network = self.network(context)
        found = context.cache.features(context.samples.images_NCHW, network, batch_size=self.batch_size)
        return network, found

    def interval(self, method: str = METHOD) -> str:
        """What the protocol says of the interval."""
        return f"{method}, {self.resamples} resamples"


@dataclass(frozen=True, kw_only=True)
class AgainstReference(InFeatures):
    """reference: a folder with the statistics of the data set in the features of our own network (`zoo:reference`).

    For the network of ImageNet a folder with real images (`zoo:test_images`).
    """

    reference: str

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError where the reference is not there or was made with another network, too."""
        super().check(drawn)
        if self.of_imagenet:
            check_real(self.reference, drawn.shape[0])
        else:
            check_network(self.reference, FeatureFolder.of(self.features).digest)

    def check_rank(self, drawn: Drawn, mean: str) -> None:
        """Raise ValueError where so few images have no whole covariance. mean: the field of the reference."""
        if not self.of_imagenet:
            return check_count(drawn.num_images, dimensions(self.reference, mean))
        dims = efficientnet.DIMS[mean]
        check_count(drawn.num_images, dims)
        if (num := len(real_images(self.reference))) <= dims:
            raise ValueError(
                f"reference={self.reference!r}: holds {num} real images, and a Frechet distance in {dims} dimensions "
                f"needs more than {dims}. Give more, or choose a kernel distance."
            )
        return None

    def compare(self, context: EvaluationContext) -> tuple["ImageFeatures", ReferenceStatistics]:
        """The features of the samples and the statistics of the data set. Raises ValueError for another network's."""
        network, found = self.look(context)
        if self.of_imagenet:
            return found, statistics_of_images(self.reference, self.batch_size)
        return found, load_reference(self.reference, network)

    def protocol(
        self, context: EvaluationContext, metric: str, reference: ReferenceStatistics, *, method: str = METHOD,
        **details: Any,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Everything that must agree before two of these numbers are compared. details: what the metric adds."""
        judge = {"features": reference.network, "reference": reference.digest, "interval": self.interval(method)}
        return context.protocol(metric, {**details, **judge})
