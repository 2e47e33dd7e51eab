"""The scores of OpenAI's guided-diffusion evaluator (ADM, arXiv:2105.05233) in PyTorch, against its reference batches.

Legend of shape suffixes: N image, M reference image, F pooled feature, S spatial feature, K class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from cq.core.contracts import Better, Drawn
from cq.core.values import Batch
from cq.evaluate.features import check_device, check_shape
from cq.evaluate.gaussian import check_count, frechet_distance, moments
from cq.evaluate.inception_score import inception_score
from cq.evaluate.kernel import DEGREE, kernel_distance
from cq.evaluate.precision_recall import precision_of_samples
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference_batch import POOLED, SPATIAL, ReferenceBatch
from cq.evaluate.tf_inception import TFInception, find_weights

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures

Kind = Literal["fid", "sfid", "inception_score", "precision", "recall", "kid"]

SPLIT = 5000  # images of a part of the Inception score
NEIGHBOUR = 3  # which neighbour a ball of precision and recall reaches out to
POOLED_DIMS, SPATIAL_DIMS = 2048, 2023
DEFINITIONS: Mapping[Kind, str] = {
    "fid": "squared Frechet distance, pool_3, guided-diffusion",
    "sfid": "squared Frechet distance, first 7 channels of mixed_6/conv, guided-diffusion",
    "inception_score": f"mean over parts of {SPLIT} images in order of exp mean KL, softmax without bias",
    "precision": f"share of samples in a ball to the {NEIGHBOUR}rd neighbour of a reference image, pool_3",
    "recall": f"share of reference images in a ball to the {NEIGHBOUR}rd neighbour of a sample, pool_3",
    "kid": f"unbiased squared MMD, kernel (xy / F + 1)^{DEGREE}, pool_3, no subsets",
}


def inception_score_in_parts(logits_NK: Tensor, *, size: int) -> float:
    """Mean of the score over consecutive parts of `size` images, the last one perhaps smaller.

    So it depends on the order: a part of images sorted by class sees few classes and scores low.
    """
    parts = torch.split(logits_NK, size)
    return float(torch.stack([inception_score(part, torch.ones(len(part))) for part in parts]).mean())


@dataclass(frozen=True, kw_only=True)
class AdmEvaluation:
    """`fid_adm`, `sfid_adm`, `inception_score_adm`, `precision_adm`, `recall_adm`, `kid_adm`, as chosen in `scores`.

    As guided-diffusion's evaluator finds them, which knows no kid. Deviations: distances of precision and recall are
    exact where it rounds to half precision in blocks. Time of precision, recall and kid grows as the product of the
    two counts: minutes on a GPU and hours on a CPU for 50,000 images.

    weights: the Inception weights; looked for in torch hub's cache, too. reference: npz of guided-diffusion's format.
    reference_sha256: what the file must be, or null to take it as it is; the protocol of a score names it in any case.
    """

    scores: tuple[Kind, ...]
    weights: str
    reference: str
    reference_sha256: str | None
    batch_size: Batch
    device: str

    def __post_init__(self) -> None:
        unknown = sorted(set(self.scores) - set(get_args(Kind)))
        if unknown or not self.scores:
            raise ValueError(
                f"scores={list(self.scores)}: cannot compute {', '.join(unknown) or 'nothing'}. Choose from "
                f"{', '.join(get_args(Kind))}."
            )
        if len(set(self.scores)) < len(self.scores):
            raise ValueError(f"scores={list(self.scores)}: names one twice. Name each once.")

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images without a chosen score, MetricUnavailable where a file is missing."""
        check_shape(drawn.shape, "Inception")
        self.check_count(drawn.num_images)
        check_device(self.device)
        find_weights(self.weights, metric="adm")
        ReferenceBatch.open(self.reference, sha256=self.reference_sha256, metric="adm")

    def check_count(self, num_images: int) -> None:
        """Raise ValueError where a chosen score has no value for so few images."""
        if "sfid" in self.scores:
            check_count(num_images, SPATIAL_DIMS)
        if "fid" in self.scores:
            check_count(num_images, POOLED_DIMS)
        if {"precision", "recall"} & set(self.scores) and num_images <= NEIGHBOUR:
            raise ValueError(f"{num_images} images: each needs {NEIGHBOUR} others for precision and recall. Give more.")

    def check_files(self) -> None:
        """Raise ValueError for a reference that is there and cannot serve the chosen scores."""
        if Path(self.reference).is_file():
            batch = ReferenceBatch.open(self.reference, sha256=self.reference_sha256, metric="adm")
            batch.check(
                pooled=POOLED_DIMS,
                spatial=SPATIAL_DIMS,
                images=bool({"precision", "recall", "kid"} & set(self.scores)),
                moments=[keys for kind, keys in (("fid", POOLED), ("sfid", SPATIAL)) if kind in self.scores],
            )

    @property
    def better(self) -> Better:
        return {f"{kind}_adm": _better(kind) for kind in self.scores}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        weights = find_weights(self.weights, metric="adm")
        batch = ReferenceBatch.open(self.reference, sha256=self.reference_sha256, metric="adm")
        network = TFInception(weights, device=self.device)
        found = context.cache.features(context.samples.images_NCHW, network, batch_size=self.batch_size)
        reference = _Reference(batch, network, self.batch_size, context)
        return {
            f"{kind}_adm": Score(
                value=VALUES[kind](found, reference),
                low=None,
                high=None,
                better=_better(kind),
                protocol=context.protocol(f"{kind}_adm", self._details(kind, network.digest, batch.digest)),
            )
            for kind in self.scores
        }

    def _details(self, kind: Kind, features: str, reference: str) -> Mapping[str, Any]:
        against = {} if kind == "inception_score" else {"reference": reference}
        return {"definition": DEFINITIONS[kind], "features": features, **against, "interval": "none"}


def _better(kind: Kind) -> Literal["up", "down"]:
    return "down" if kind in ("fid", "sfid", "kid") else "up"


@dataclass(frozen=True)
class _Reference:
    """What the scores compare with; features of the reference's images are computed when a score asks for them."""

    batch: ReferenceBatch
    network: TFInception
    batch_size: int
    context: EvaluationContext

    @property
    def features(self) -> "ImageFeatures":
        images_MCHW = self.batch.images_MCHW
        return self.context.cache.features(images_MCHW, self.network, batch_size=self.batch_size)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """As stored; the evaluator, too, takes the images' own moments only where none are stored."""
        return self.batch.moments(POOLED) or moments(self.features.pooled_NF)

    def spatial(self) -> tuple[Tensor, Tensor]:
        return self.batch.moments(SPATIAL) or moments(self.features.spatial_NF)


def _frechet(features_NF: Tensor, reference: tuple[Tensor, Tensor]) -> float:
    check_count(*features_NF.shape)
    return frechet_distance(*moments(features_NF), *reference)


def _kid(found: "ImageFeatures", reference: _Reference) -> float:
    samples_NF, reference_MF = found.pooled_NF.double(), reference.features.pooled_NF.double()
    return float(kernel_distance(samples_NF.new_ones(1, len(samples_NF)), samples_NF, reference_MF))


def _share(points_NF: Tensor, centres_MF: Tensor) -> float:
    if len(centres_MF) <= NEIGHBOUR:
        raise ValueError(
            f"{len(centres_MF)} images: each needs {NEIGHBOUR} others for precision and recall. Give more."
        )
    return float(precision_of_samples(points_NF, centres_MF, k=NEIGHBOUR).double().mean())


VALUES: Mapping[Kind, Callable[["ImageFeatures", _Reference], float]] = {
    "fid": lambda found, reference: _frechet(found.pooled_NF, reference.pooled()),
    "sfid": lambda found, reference: _frechet(found.spatial_NF, reference.spatial()),
    "inception_score": lambda found, _: inception_score_in_parts(found.logits_NK, size=SPLIT),
    "precision": lambda found, reference: _share(found.pooled_NF, reference.features.pooled_NF),
    "recall": lambda found, reference: _share(reference.features.pooled_NF, found.pooled_NF),
    "kid": _kid,
}
