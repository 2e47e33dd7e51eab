"""The laws of metrics, for every yaml of the group that needs no download."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.core.contracts import Metric, NamesScores
from cq.evaluate.classifier import Classifier
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.evaluate.reference import ReferenceStatistics
from tests.choices import built, names

COUNT = 150  # above the 128 spatial features, so that covariances are whole
NEED_A_DOWNLOAD = (
    "adm", "clip_score", "clip_scores", "fid_clean", "fid_legacy_pytorch", "fid_legacy_tensorflow",
    "fid_torchmetrics",
)  # fmt: skip
metrics = pytest.mark.parametrize("name", names("metric"))

# what a set gets that equals the one it is compared with; a metric without an ideal says so with None
IDEAL: dict[str, float | None] = {
    "psnr_fp_db": 100.0, "ssim_fp": 1.0, "latent_error_fp": 0.0, "feature_distance_own_fp": 0.0, "frechet_own": 0.0,
    "sfid_own": 0.0, "precision_own": 1.0, "recall_own": 1.0,
    "kid_own": None,  # unbiased, so below 0 where the two sets are one and the same
    "inception_score_own": None,  # compares with nothing
    "clip_score_own": None,  # compares with the captions, which say nothing of these images
}  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """A feature network of random weights, and the reference that consists of the very images under test."""

    features: str
    reference: str
    images_NCHW: Tensor
    samples: SampleSet


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    features, reference = (tmp_path_factory.mktemp(name) for name in ("features", "reference"))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Classifier(width=4, blocks=1).save_pretrained(features)
    coarse = torch.rand(COUNT, 1, 8, 8, generator=generator) * torch.rand(COUNT, 1, 1, 1, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") * 255).round().byte()
    network = FeatureNetwork.load(str(features))
    found = network.extract(images, batch_size=50)
    ReferenceStatistics.of(found, data_set="these", network=network.digest, subset_size=COUNT, seed=0).save(reference)
    latents = torch.randn(COUNT, 4, 4, 4, generator=generator)
    samples = SampleSet(
        seeds=tuple(range(COUNT)), images_NCHW=images, latents_NCHW=latents, labels_N=torch.arange(COUNT) % 10,
        trace_TNCHW=torch.stack([2 * latents, latents]),
    )  # fmt: skip
    return Judge(str(features), str(reference), images, samples)


def scores(name: str, judge: Judge, samples: SampleSet, baseline: SampleSet, data: Path) -> Mapping[str, Score]:
    """What the metric finds; skips the test where it needs a download and says so."""
    metric: Metric = built(
        "metric", name, data=str(data), features=judge.features, reference=judge.reference, batch_size=50, resamples=40
    )
    context = EvaluationContext(
        samples=samples, baseline=baseline, sampling={"steps": 10}, captions=("a coat",) * len(samples.images_NCHW)
    )
    try:
        return metric.compute(context)
    except MetricUnavailable as error:
        if name not in NEED_A_DOWNLOAD:
            raise
        pytest.skip(str(error))


def shuffled(samples: SampleSet, order_N: Tensor) -> SampleSet:
    return SampleSet(
        seeds=tuple(samples.seeds[int(i)] for i in order_N), images_NCHW=samples.images_NCHW[order_N],
        latents_NCHW=samples.latents_NCHW[order_N], labels_N=samples.labels_N[order_N],
        trace_TNCHW=samples.trace_TNCHW[:, order_N],
    )  # fmt: skip


def spoilt(samples: SampleSet) -> SampleSet:
    """The same set, every image and latent under noise."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(-90, 91, samples.images_NCHW.shape, generator=generator)
    return replace(
        samples,
        images_NCHW=(samples.images_NCHW.int() + noise).clamp(0, 255).byte(),
        latents_NCHW=samples.latents_NCHW + torch.randn(samples.latents_NCHW.shape, generator=generator),
    )


@metrics
def test_the_order_of_images_does_not_matter(name: str, judge: Judge, tmp_path: Path) -> None:
    ours = spoilt(judge.samples)
    order_N = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    found = scores(name, judge, ours, judge.samples, tmp_path)
    again = scores(name, judge, shuffled(ours, order_N), shuffled(judge.samples, order_N), tmp_path)
    assert found
    assert found.keys() == again.keys()
    for key, score in found.items():
        assert again[key].value == pytest.approx(score.value, rel=1e-4, abs=1e-6), key  # batches round differently
        assert again[key].fingerprint == score.fingerprint


@metrics
def test_equal_sets_get_the_ideal_value_and_a_spoilt_one_a_worse(name: str, judge: Judge, tmp_path: Path) -> None:
    found = scores(name, judge, judge.samples, judge.samples, tmp_path)
    worse = scores(name, judge, spoilt(judge.samples), judge.samples, tmp_path)
    for key, score in found.items():
        assert key in IDEAL, f"give {key} its ideal value here"
        ideal = IDEAL[key]
        if ideal is not None:
            assert score.value == pytest.approx(ideal, abs=1e-5)
        if key not in ("inception_score_own", "clip_score_own"):  # these may like noise
            assert (worse[key].value < score.value) == (score.better == "up"), key
            assert worse[key].value != pytest.approx(score.value, rel=1e-3)


@metrics
def test_a_score_is_finite_within_its_interval_and_json(name: str, judge: Judge, tmp_path: Path) -> None:
    for key, score in scores(name, judge, spoilt(judge.samples), judge.samples, tmp_path).items():
        assert math.isfinite(score.value)
        if score.low is not None and score.high is not None:
            assert score.low <= score.value <= score.high
        document = json.loads(json.dumps(score.as_json(), allow_nan=False))
        assert document["protocol"]["metric"] == key
        assert document["protocol"]["num_images"] == COUNT
        assert document["protocol"]["steps"] == 10


@metrics
def test_a_metric_says_before_which_scores_it_has(name: str, judge: Judge, tmp_path: Path) -> None:
    metric = built("metric", name, data=str(tmp_path), features=judge.features, reference=judge.reference)
    assert isinstance(metric, NamesScores)
    assert metric.better
    found = scores(name, judge, judge.samples, judge.samples, tmp_path)
    assert {key: score.better for key, score in found.items()} == metric.better


@metrics
def test_the_sets_are_left_as_they_are(name: str, judge: Judge, tmp_path: Path) -> None:
    ours, theirs = spoilt(judge.samples), judge.samples
    before = ours.digest, theirs.digest
    scores(name, judge, ours, theirs, tmp_path)
    assert (ours.digest, theirs.digest) == before
