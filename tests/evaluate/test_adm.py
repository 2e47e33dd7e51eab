"""The real weights cannot be had offline: the true architecture with random weights, and features given outright."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.core.checksum import file_digest
from cq.evaluate import adm, tf_inception
from cq.evaluate.adm import AdmEvaluation, inception_score_in_parts
from cq.evaluate.classifier import ImageFeatures
from cq.evaluate.gaussian import moments
from cq.evaluate.kernel import kernel_distance
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.evaluate.reference_batch import write_reference_batch
from cq.evaluate.tf_inception import NAMES, TFInception, find_weights
from cq.run.preflight import check_files

KINDS: tuple[adm.Kind, ...] = ("fid", "sfid", "inception_score", "precision", "recall", "kid")
COUNT = 240
Samples = Callable[[Tensor, Tensor], SampleSet]


def pictures(count: int, seed: int, *, size: int = 8) -> Tensor:
    """uint8 [count, 3, size, size]; another seed is another distribution."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, 3, size, size, generator=generator) * (30 + 9 * seed) + 120
    return drawn.clamp(0, 255).byte()


class Drawn:
    """Stands in for the network: fixed random projections of the pixels."""

    digest = "projections"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        self.projections = [torch.randn(192, dim, dtype=torch.float64, generator=generator) for dim in (24, 20, 12)]

    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> ImageFeatures:
        flat = images_NCHW.double().flatten(1) / 127.5 - 1
        return ImageFeatures(*(flat @ projection / 3 for projection in self.projections))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(adm, "TFInception", Drawn)
    monkeypatch.setattr(adm, "find_weights", lambda path, metric: tmp_path)


def metric(reference: Path, **fields: Any) -> AdmEvaluation:
    default = AdmEvaluation(
        scores=KINDS, weights="none.pth", reference=str(reference), reference_sha256=None, batch_size=50, device="cpu"
    )
    return replace(default, **fields)


@pytest.fixture
def context(samples: Samples) -> EvaluationContext:
    return EvaluationContext(samples=samples(pictures(COUNT, 1), torch.ones(COUNT, 1)), baseline=None, sampling={})


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Images alone, from which the moments follow."""
    np.savez(tmp_path / "reference.npz", arr_0=pictures(COUNT, 2).permute(0, 2, 3, 1).numpy())
    return tmp_path / "reference.npz"


@pytest.fixture
def features() -> tuple[ImageFeatures, ImageFeatures]:
    network = Drawn()
    return network.extract(pictures(COUNT, 1), batch_size=1), network.extract(pictures(COUNT, 2), batch_size=1)


Values = dict[str, float]


@pytest.fixture
def values(given: None, reference: Path, context: EvaluationContext) -> Values:
    return {key: score.value for key, score in metric(reference).compute(context).items()}


def test_scores_equal_torch_fidelity(values: Values, features: tuple[ImageFeatures, ImageFeatures]) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    ours, theirs = features
    expected = {
        f"{name}_adm": fid_statistics_to_metric(*map(fid_features_to_statistics, pair), False)[
            "frechet_inception_distance"
        ]
        for name, pair in {
            "fid": (ours.pooled_NF, theirs.pooled_NF), "sfid": (ours.spatial_NF, theirs.spatial_NF),
        }.items()
    }  # fmt: skip
    score = isc_features_to_metric(ours.logits_NK, splits=1, shuffle=False)["inception_score_mean"]
    shares = prc_features_to_metric(
        ours.pooled_NF, theirs.pooled_NF, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    kid = kid_features_to_metric(
        ours.pooled_NF, theirs.pooled_NF, kid_subsets=1, kid_subset_size=COUNT, verbose=False, rng_seed=0
    )["kernel_inception_distance_mean"]
    expected |= {
        "inception_score_adm": score, "precision_adm": shares["precision"], "recall_adm": shares["recall"],
        "kid_adm": kid,
    }  # fmt: skip
    assert values == pytest.approx(expected, rel=1e-6)
    assert 0 < values["precision_adm"] < 1
    assert 0 < values["recall_adm"] < 1


def test_distances_equal_clean_fid(values: Values, features: tuple[ImageFeatures, ImageFeatures]) -> None:
    from cleanfid.fid import frechet_distance, kernel_distance

    ours, theirs = ((part.pooled_NF.numpy(), part.spatial_NF.numpy()) for part in features)
    for key, column in (("fid_adm", 0), ("sfid_adm", 1)):
        stats = [stat for part in (ours, theirs) for stat in (part[column].mean(0), np.cov(part[column].T))]
        with pytest.warns(DeprecationWarning, match="disp"):
            assert values[key] == pytest.approx(frechet_distance(*stats), rel=1e-6)
    whole = kernel_distance(theirs[0], ours[0], num_subsets=1, max_subset_size=COUNT)
    assert values["kid_adm"] == pytest.approx(whole, rel=1e-6)


def test_scores_equal_plain_numpy(values: Values, features: tuple[ImageFeatures, ImageFeatures]) -> None:
    ours, theirs = ([array.numpy() for array in part] for part in features)

    def frechet(x: Any, y: Any) -> float:
        a, b = np.cov(x.T), np.cov(y.T)
        cross = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()
        return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)

    def share(points: Any, centres: Any) -> float:
        within = np.sqrt(((centres[:, None] - centres[None]) ** 2).sum(2))
        radius = np.sort(within, axis=1)[:, 3]  # column 0 is the image itself
        across = np.sqrt(((points[:, None] - centres[None]) ** 2).sum(2))
        return float((across <= radius).any(1).mean())

    def kid(x: Any, y: Any) -> float:
        def kernel(a: Any, b: Any) -> Any:
            return (a @ b.T / a.shape[1] + 1) ** 3

        n, m = len(x), len(y)
        xx, yy = kernel(x, x), kernel(y, y)
        pairs = (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1)
        return float(pairs - 2 * kernel(x, y).mean())

    p = np.exp(ours[2]) / np.exp(ours[2]).sum(1, keepdims=True)
    assert values == pytest.approx(
        {
            "fid_adm": frechet(ours[0], theirs[0]), "sfid_adm": frechet(ours[1], theirs[1]),
            "inception_score_adm": float(np.exp((p * np.log(p / p.mean(0))).sum(1).mean())),
            "precision_adm": share(ours[0], theirs[0]), "recall_adm": share(theirs[0], ours[0]),
            "kid_adm": kid(ours[0], theirs[0]),
        },
        rel=1e-6,
    )  # fmt: skip


def test_kid_is_what_means_over_random_subsets_estimate() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    generator = torch.Generator().manual_seed(0)
    x_NF, y_MF = torch.randn(2, 240, 16, dtype=torch.float64, generator=generator)
    found = kid_features_to_metric(
        x_NF, y_MF + 2, kid_subsets=300, kid_subset_size=235, verbose=False, rng_seed=0
    )["kernel_inception_distance_mean"]  # fmt: skip
    assert float(kernel_distance(x_NF.new_ones(1, 240), x_NF, y_MF + 2)) == pytest.approx(found, rel=1e-3)


def test_inception_score_in_parts_equals_torch_fidelity_and_depends_on_the_order() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits_NK = 3 * torch.randn(400, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = isc_features_to_metric(logits_NK, splits=4, shuffle=False)["inception_score_mean"]
    assert inception_score_in_parts(logits_NK, size=100) == pytest.approx(expected, rel=1e-9)
    by_class = logits_NK[logits_NK.argmax(1).argsort()]
    assert inception_score_in_parts(by_class, size=100) < 0.7 * expected


def test_stored_moments_come_before_those_of_the_stored_images(
    given: None, context: EvaluationContext, features: tuple[ImageFeatures, ImageFeatures], tmp_path: Path
) -> None:
    """ADM's batches hold the moments of the whole data set beside a part of its images."""
    ours, theirs = features
    write_reference_batch(tmp_path / "a.npz", pictures(9, 3), ours.pooled_NF, theirs.spatial_NF)
    found = metric(tmp_path / "a.npz", scores=("fid", "sfid")).compute(context)
    assert found["fid_adm"].value == pytest.approx(0, abs=1e-6)
    assert found["sfid_adm"].value > 0.1
    with np.load(tmp_path / "a.npz") as stored:
        np.testing.assert_allclose(stored["sigma"], moments(ours.pooled_NF)[1])
        assert stored["arr_0"].shape == (9, 8, 8, 3)


def test_another_reference_is_refused_by_its_hash_and_every_score_names_it(
    given: None, context: EvaluationContext, reference: Path
) -> None:
    with pytest.raises(ValueError, match=rf"SHA-256 is {file_digest(reference)}, and {'f' * 64} is asked for"):
        metric(reference, reference_sha256="f" * 64).compute(context)
    scores = metric(reference, reference_sha256=file_digest(reference)).compute(context)
    of_reference = {key: score.protocol.get("reference") for key, score in scores.items()}
    assert of_reference.pop("inception_score_adm") is None
    assert set(of_reference.values()) == {file_digest(reference)}


def test_a_reference_without_images_or_that_is_none_is_refused(
    given: None, context: EvaluationContext, tmp_path: Path
) -> None:
    np.savez(tmp_path / "moments.npz", mu=np.zeros(24), sigma=np.eye(24))
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    np.savez(tmp_path / "mixed.npz", mu=np.zeros(24), sigma=np.eye(23))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    assert metric(tmp_path / "moments.npz", scores=("fid",)).compute(context)["fid_adm"].value > 0
    with pytest.raises(ValueError, match=r"holds moments only.*Leave out precision, recall and kid"):
        metric(tmp_path / "moments.npz", scores=("kid",)).compute(context)
    with pytest.raises(ValueError, match=r"holds labels, and a reference batch has"):
        metric(tmp_path / "other.npz").compute(context)
    with pytest.raises(ValueError, match=r"mu has shape \[24\] and sigma \[23, 23\]"):
        metric(tmp_path / "mixed.npz", scores=("fid",)).compute(context)
    with pytest.raises(ValueError, match="is damaged or cut short"):
        metric(tmp_path / "torn.npz").compute(context)
    with pytest.raises(MetricUnavailable, match=r"needs the reference batch .*nowhere.npz.*cq-score"):
        metric(tmp_path / "nowhere.npz").compute(context)


@pytest.mark.parametrize(
    ("arrays", "scores", "told"),
    [
        ({"mu": (768,), "sigma": (768, 768)}, ("fid",), "mu has 768 features, and the network finds 2048"),
        ({"mu": (2048,), "sigma": (2048, 2048), "mu_s": (9,), "sigma_s": (9, 9)}, ("sfid",), "mu_s has 9 features"),
        ({"mu": (2048,), "sigma": (2048, 2048)}, ("fid", "recall"), "holds moments only"),
        ({"mu": (2048,), "sigma": (2048, 2048)}, ("sfid",), "holds moments only.*sfid where mu_s is missing"),
        ({"mu": (2048, 1), "sigma": (2048, 2048)}, ("fid",), r"mu has shape \[2048, 1\] and sigma \[2048, 2048\]"),
        ({"arr_0": (2, 8, 8, 3), "mu": (2048,)}, ("fid",), r"mu has shape \[2048\] and sigma None"),
        ({"arr_0": (2, 3, 8, 8)}, ("fid",), "Its channels come first"),
    ],
)
def test_a_reference_that_cannot_serve_is_refused_before_images_are_drawn(
    arrays: dict[str, tuple[int, ...]], scores: tuple[adm.Kind, ...], told: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **{key: np.zeros(shape, np.uint8) for key, shape in arrays.items()})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"^metrics.adm.reference='.*a.npz': .*{told}"):
        check_files({"adm": metric(tmp_path / "a.npz", scores=scores)})


def test_a_reference_that_serves_or_is_missing_is_let_pass(tmp_path: Path) -> None:
    check_files({"adm": metric(tmp_path / "a.npz")})
    np.savez(tmp_path / "a.npz", mu=np.zeros(2048), sigma=np.zeros((2048, 2048), np.uint8))
    check_files({"adm": metric(tmp_path / "a.npz", scores=("fid", "inception_score"))})
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    check_files({"adm": metric(tmp_path / "a.npz")})


def test_moments_that_are_no_numbers_are_refused(given: None, context: EvaluationContext, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.full(24, np.nan), sigma=np.eye(24))
    with pytest.raises(ValueError, match="mu or sigma is not finite"):
        metric(tmp_path / "a.npz", scores=("fid",)).compute(context)


@pytest.mark.parametrize(("scores", "told"), [((), "cannot compute nothing"), (("fid", "fid"), "names one twice")])
def test_a_choice_of_scores_that_is_none_is_refused(scores: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        metric(Path("a"), scores=scores)


def test_too_few_images_for_a_covariance_are_refused_beforehand() -> None:
    with pytest.raises(ValueError, match=r"2023 dimensions needs more"):
        metric(Path("a"), scores=("sfid",)).check_count(2000)
    with pytest.raises(ValueError, match=r"3 images: each needs 3 others"):
        metric(Path("a"), scores=("recall",)).check_count(3)
    metric(Path("a"), scores=("kid",)).check_count(2)


# The true architecture, of random weights.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file as the published one, under its name, and taken for it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Published

    path = tmp_path_factory.mktemp("inception") / NAMES[0]
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(Published, "load_state_dict", lambda self, state: None)
        torch.save(Published("drawn", ["2048"], str(path)).state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf_inception, "SHA256", file_digest(path)[:8])
        yield path


@pytest.fixture(scope="module")
def inception(weights: Path) -> TFInception:
    return TFInception(find_weights(str(weights), metric="adm"), device="cpu")


def test_features_are_those_of_torch_fidelity_laid_out_as_tensorflow_does(
    weights: Path, inception: TFInception
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = pictures(3, 1, size=40)
    theirs = FeatureExtractorInceptionV3("published", ["2048", "logits_unbiased"], str(weights))
    seen: list[Tensor] = []
    theirs.Mixed_6d.register_forward_hook(lambda module, args, output: seen.append(output))
    pooled, logits = theirs(images)
    found = inception.extract(images, batch_size=2)
    torch.testing.assert_close(found.pooled_NF, pooled, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits_NK, logits, rtol=1e-4, atol=1e-5)
    assert found.spatial_NF.shape == (3, 2023)
    for row, column, channel in ((0, 0, 0), (3, 11, 6), (16, 16, 2)):
        expected = seen[0][:, channel, row, column]
        torch.testing.assert_close(
            found.spatial_NF[:, (row * 17 + column) * 7 + channel], expected, rtol=1e-4, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_legacy_pytorch_equals_clean_fid(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanfid import inception_pytorch
    from cleanfid.resize import build_resizer

    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda url, progress: state)
    network = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    images = pictures(2, 1, size=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.filterwarnings", lambda *args: None)  # clean-fid would silence all of this process
        resize = build_resizer("legacy_pytorch")
    resized = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images])
    with torch.no_grad():
        expected = network(torch.from_numpy(resized).permute(0, 3, 1, 2) / 255)[0].flatten(1)
    found = TFInception(weights, device="cpu", resize="pytorch").extract(images, batch_size=2).pooled_NF
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_whole_evaluation_on_the_true_architecture(
    weights: Path, samples: Samples, tmp_path: Path
) -> None:  # fmt: skip
    np.savez(tmp_path / "a.npz", arr_0=pictures(4, 2, size=16).permute(0, 2, 3, 1).numpy())
    context = EvaluationContext(
        samples=samples(pictures(4, 1, size=16), torch.ones(4, 1)), baseline=None, sampling={"steps": 5}
    )
    kinds: tuple[adm.Kind, ...] = ("inception_score", "precision", "recall", "kid")
    found = metric(tmp_path / "a.npz", weights=str(weights), scores=kinds).compute(context)
    assert set(found) == {f"{kind}_adm" for kind in kinds}
    assert found["kid_adm"].protocol["features"] == f"{file_digest(weights)}, resize tensorflow"
    assert found["inception_score_adm"].value == pytest.approx(1, abs=0.5)  # unsure of every image


def test_missing_weights_name_the_download_and_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: EvaluationContext
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(MetricUnavailable, match=rf"adm: needs .*https://.*{NAMES[0]} to .*gone.pth, or into .*hub"):
        metric(tmp_path / "a.npz", weights=str(tmp_path / "gone.pth")).compute(context)


def test_weights_are_found_in_the_cache_of_torch_hub_and_refused_where_they_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints" / NAMES[1]).write_bytes(b"pytorch-fid's")
    with pytest.raises(ValueError, match="SHA-256 does not start with"):
        find_weights(str(tmp_path / "gone.pth"), metric="adm")
    monkeypatch.setattr(tf_inception, "SHA256", file_digest(tmp_path / "hub/checkpoints" / NAMES[1])[:8])
    assert find_weights(str(tmp_path / "gone.pth"), metric="adm").name == NAMES[1]
