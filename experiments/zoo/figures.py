"""What the quality bars measure of images: agreement with what was asked for, and distances to real images.

Everything here is judged by networks that trained none of the generators.
Legend of shape suffixes: N image, C channel, H W space.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.evaluate.classifier import Classifier
from cq.evaluate.clip_score import FolderClipScore
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.gaussian import frechet_distance, moments
from cq.evaluate.reference import load_reference
from cq.models.locate import locate
from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit
from experiments.zoo.recipes.scene_classifiers import agreement
from experiments.zoo.scenes import ATTRIBUTES, caption, combinations, evaluation_scenes

OTHER_SEED = 32  # of real scenes beside those that the reference is made of


class FrechetOwn:
    """The Frechet distance in our own features to a packaged reference."""

    def __init__(self, features: str, reference: str) -> None:
        self.network = FeatureNetwork.load(features)
        self.reference = load_reference(reference, self.network)

    def distance(self, images_NCHW: Tensor) -> float:
        """Of uint8 images; lower is better."""
        mu_F, sigma_FF = moments(self.network.extract(images_NCHW, batch_size=500).pooled_NF)
        return frechet_distance(mu_F, sigma_FF, self.reference.mu_F, self.reference.sigma_FF)

    def about(self) -> dict[str, Any]:
        """What the distance depends on, beside the images."""
        return {
            "total_feature_variance": float(self.reference.sigma_FF.trace()),
            "features_digest": self.network.digest,
            "reference_digest": self.reference.digest,
        }


@torch.no_grad()
def judged(images_NCHW: Tensor, name: str) -> Tensor:
    """Class int64 [N] that the zoo classifier `name` finds in uint8 images."""
    network = Classifier.from_pretrained(locate(f"zoo:{name}")).float().eval()
    return torch.cat([network(to_unit(part)).logits_NK.argmax(1) for part in torch.split(images_NCHW, 500)])


def of_garments(images_NCHW: Tensor, root: Path) -> dict[str, Any]:
    """Figures of grey images that were asked for nothing in particular."""
    frechet = FrechetOwn("zoo:features", "zoo:reference")
    test_images, test_labels = fashion_mnist("t10k", root)
    return {
        "features_test_accuracy": float((judged(test_images, "features") == test_labels).double().mean()),
        "frechet_own": frechet.distance(images_NCHW),
        "frechet_own_of_test_images": frechet.distance(test_images),
        **frechet.about(),
    }


def of_classes(images_NCHW: Tensor, labels_N: Tensor, *, num_judged: int, root: Path) -> dict[str, Any]:
    """Figures of grey images that were asked for a class; the first `num_judged` are judged."""
    test_images, test_labels = fashion_mnist("t10k", root)
    right = (judged(images_NCHW[:num_judged], "judge") == labels_N[:num_judged]).double()
    return {
        "num_judged": len(right),
        "judge_agreement": float(right.mean()),
        "judge_agreement_by_class": [float(right[labels_N[:num_judged] == k].mean()) for k in range(10)],
        "judge_test_accuracy": float((judged(test_images, "judge") == test_labels).double().mean()),
        **of_garments(images_NCHW, root),
    }


def of_scenes(images_NCHW: Tensor, which_N: Tensor, *, num_judged: int, root: Path) -> dict[str, Any]:
    """Figures of colour images that were asked for held-out captions; the first `num_judged` are judged.

    The same of real scenes says what can be reached, and the CLIP score of real scenes under another scene's caption
    where its scale begins.
    """
    network = Classifier.from_pretrained(locate("zoo:scene_judge")).float().eval()
    right = agreement(network, images_NCHW[:num_judged], which_N[:num_judged])
    real = evaluation_scenes(root, count=len(images_NCHW), seed=OTHER_SEED)
    right_of_real = agreement(network, real.images_NCHW, real.which_N)
    frechet = FrechetOwn("zoo:scene_features", "zoo:scene_reference")
    some, others = real.which_N[:num_judged], real.which_N.roll(len(set(which_N.tolist())) // 2)[:num_judged]
    figures: dict[str, Any] = {"num_judged": len(right), "right_caption": float(right.all(1).double().mean())}
    for i, name in enumerate(ATTRIBUTES):
        figures[f"right_{name}"] = float(right[:, i].double().mean())
        figures[f"right_{name}_of_real_scenes"] = float(right_of_real[:, i].double().mean())
    return {
        **figures,
        "clip_score_own": clip_score(images_NCHW[:num_judged], which_N[:num_judged]),
        "clip_score_own_of_real_scenes": clip_score(real.images_NCHW[:num_judged], some),
        "clip_score_own_of_wrong_captions": clip_score(real.images_NCHW[:num_judged], others),
        "frechet_own": frechet.distance(images_NCHW),
        "frechet_own_of_real_scenes": frechet.distance(real.images_NCHW),
        **frechet.about(),
    }


def clip_score(images_NCHW: Tensor, which_N: Tensor) -> float:
    """Mean score by clip_judge of uint8 images and the captions of these combinations."""
    metric = FolderClipScore(
        name="own", folder="zoo:clip_judge", batch_size=250, device="cpu", resamples=100, bootstrap_seed=0
    )
    captions = tuple(caption(combinations()[k]) for k in which_N)
    return float(metric.load().scores(images_NCHW, captions, batch_size=250, device="cpu").mean())
