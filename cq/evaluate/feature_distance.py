"""How far apart the feature network finds each image and the baseline's of the same seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cq.core.contracts import Better
from cq.evaluate.fidelity import score_of_mean
from cq.evaluate.own_features import InOwnFeatures
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class FeatureDistance(InOwnFeatures):
    """`feature_distance_own_fp`: mean L2 distance of pairs in our own pooled features, over the baseline's mean norm.

    Blind to small shifts and grain that PSNR punishes; near sqrt(2) times the spread of the features for unrelated
    images. Not LPIPS.
    """

    better: ClassVar[Better] = {"feature_distance_own_fp": "down"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        samples, baseline = context.pairs()
        network = context.cache.network(self.features)
        ours_NF, theirs_NF = (
            context.cache.features(images_NCHW, network, batch_size=self.batch_size).pooled_NF
            for images_NCHW in (samples.images_NCHW, baseline.images_NCHW)
        )
        score = score_of_mean(
            context,
            (ours_NF - theirs_NF).norm(dim=1) / theirs_NF.norm(dim=1).mean(),
            metric="feature_distance_own_fp",
            better="down",
            details={"definition": "mean L2 of pooled features over the mean norm", "features": network.digest},
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )
        return {"feature_distance_own_fp": score}
