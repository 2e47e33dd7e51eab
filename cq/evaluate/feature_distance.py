"""How far apart the feature network finds each image and the baseline's of the same seed."""

from collections.abc import Mapping
from dataclasses import dataclass

from cq.core.contracts import Better
from cq.evaluate.fidelity import score_of_mean
from cq.evaluate.in_features import InFeatures
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class FeatureDistance(InFeatures):
    """`feature_distance_NETWORK_fp`: mean L2 distance of pairs in pooled features, over the baseline's mean norm.

    Blind to small shifts and grain that PSNR punishes; near sqrt(2) times the spread of the features for unrelated
    images. Not LPIPS.
    """

    @property
    def better(self) -> Better:
        return {f"{self.key('feature_distance')}_fp": "down"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        (name,) = self.better
        samples, baseline = context.pairs()
        network = self.network(context)
        ours_NF, theirs_NF = (
            context.cache.features(images_NCHW, network, batch_size=self.batch_size).pooled_NF
            for images_NCHW in (samples.images_NCHW, baseline.images_NCHW)
        )
        score = score_of_mean(
            context,
            (ours_NF - theirs_NF).norm(dim=1) / theirs_NF.norm(dim=1).mean(),
            metric=name,
            better="down",
            details={"definition": "mean L2 of pooled features over the mean norm", "features": network.digest},
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {name: score}
