"""The metrics that compare a sample set with the data set, from images to scores."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.frechet import Frechet
from cq.evaluate.gaussian import frechet_distance, moments
from cq.evaluate.inception_score import InceptionScore
from cq.evaluate.kernel import Kernel, kernel_distance
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference import load_reference
from cq.evaluate.spatial_frechet import SpatialFrechet

Compute = Callable[[Tensor], dict[str, Score]]


@pytest.fixture
def compute(
    network_folder: Path, reference_folder: Path, samples: Callable[[Tensor, Tensor], SampleSet]
) -> Compute:  # fmt: skip
    """Images to the scores of all four metrics."""
    features, reference = str(network_folder), str(reference_folder)
    shared = {"batch_size": 100, "resamples": 40, "bootstrap_seed": 0}

    def run(images_NCHW: Tensor) -> dict[str, Score]:
        context = EvaluationContext(
            samples=samples(images_NCHW, torch.ones(len(images_NCHW), 1)),
            baseline=None,
            sampling={"guidance": 3.0, "classes": "balanced"},
        )
        metrics = (
            Frechet(features=features, reference=reference, **shared),
            SpatialFrechet(features=features, reference=reference, **shared),
            Kernel(features=features, reference=reference, **shared),
            InceptionScore(features=features, **shared),
        )
        scores: dict[str, Score] = {}
        for metric in metrics:
            scores |= metric.compute(context)
        return scores

    return run


def test_scores_are_the_distances_of_the_extracted_features(
    compute: Compute, network: FeatureNetwork, reference_folder: Path, images: Callable[[int, int], Tensor]
) -> None:
    found = network.extract(images(200, 0), batch_size=100)
    reference = load_reference(str(reference_folder), network)
    scores = compute(images(200, 0))
    assert set(scores) == {"frechet_own", "sfid_own", "kid_own", "inception_score_own"}
    assert scores["frechet_own"].value == frechet_distance(
        *moments(found.pooled_NF), reference.mu_F, reference.sigma_FF
    )
    assert scores["sfid_own"].value == frechet_distance(
        *moments(found.spatial_NF), reference.spatial_mu_S, reference.spatial_sigma_SS
    )
    ones_1N = torch.ones(1, 200, dtype=torch.float64)
    expected = kernel_distance(ones_1N, found.pooled_NF, reference.subset_MF.double())
    torch.testing.assert_close(scores["kid_own"].value, float(expected))


def test_every_interval_holds_its_value_and_says_how_it_was_made(
    compute: Compute, images: Callable[[int, int], Tensor]
) -> None:
    for name, score in compute(images(200, 0)).items():
        assert score.low is not None, name
        assert score.high is not None, name
        assert score.low <= score.value <= score.high, name
        assert score.protocol["metric"] == name
        assert score.protocol["num_images"] == 200
        assert score.protocol["guidance"] == 3.0
        assert "40 resamples" in score.protocol["interval"]


def test_images_unlike_the_data_are_farther_away(compute: Compute, images: Callable[[int, int], Tensor]) -> None:
    alike, unlike = compute(images(200, 0)), compute(255 - images(200, 0))
    for name in ("frechet_own", "sfid_own", "kid_own"):
        assert unlike[name].low > alike[name].high  # type: ignore[operator]


def test_order_of_images_does_not_matter(compute: Compute, images: Callable[[int, int], Tensor]) -> None:
    there, back = compute(images(150, 0)), compute(images(150, 0).flip(0))
    for name, score in there.items():
        # features are float32: their last digits depend on the place in the batch, and cancel in the distances
        torch.testing.assert_close(back[name].value, score.value, rtol=1e-4, atol=1e-9)


def test_too_few_images_for_a_covariance_are_refused(compute: Compute, images: Callable[[int, int], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"16 images.*evaluate=fidelity"):
        compute(images(16, 0))
