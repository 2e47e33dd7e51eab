"""The real weights cannot be had offline: a small network in clean-fid's file format stands in for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cq.core.artifacts import SampleSet
from cq.core.contracts import Drawn
from cq.evaluate.gaussian import frechet_distance, moments
from cq.evaluate.inception import (
    InceptionFrechet,
    torchmetrics_distance,
    write_inception_reference,
)
from cq.evaluate.inception_features import CLEAN_NAME, Mode, inception_features
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.evaluate.tf_inception import NAMES
from cq.run.preflight import check_files, check_metrics

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3 * 13 * 13, 2048)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(x, 23)
        features: Tensor = self.project(pooled.flatten(1)).relu()
        return features


class _Scripted(nn.Module):
    """As the published program: it resizes and normalizes, its `layers` do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        resized = nn.functional.interpolate(x.float(), [299, 299], mode="bilinear", align_corners=False)
        features: Tensor = self.layers((resized - 128) / 128)
        return features


@pytest.fixture(scope="session")
def clean_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / CLEAN_NAME
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.save(torch.jit.script(_Scripted()), str(path))
    return path


def metric(mode: Mode, weights: Path, reference: Path) -> InceptionFrechet:
    return InceptionFrechet(
        mode=mode,
        weights=str(weights),
        reference=str(reference),
        batch_size=3,
        device="cpu",
        resamples=0,
        bootstrap_seed=0,
    )


@pytest.fixture
def context(samples: Samples, images: Images) -> EvaluationContext:
    return EvaluationContext(samples=samples(images(5, 0), torch.ones(5, 1)), baseline=None, sampling={})


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("clean", CLEAN_NAME),
        ("legacy_tensorflow", CLEAN_NAME),
        ("legacy_pytorch", NAMES[0]),
        ("torchmetrics", NAMES[0]),
    ],
)
def test_missing_weights_name_the_download_and_touch_no_network(
    mode: Mode, name: str, tmp_path: Path, context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket", lambda *a, **k: pytest.fail("opened a socket"))
    with pytest.raises(MetricUnavailable, match=rf"fid_{mode}: needs .*https://.*{name} to {tmp_path}"):
        metric(mode, tmp_path / name, tmp_path / "reference.npz").compute(context)


def test_missing_reference_names_the_command_that_builds_it(clean_weights: Path, context: EvaluationContext) -> None:
    with pytest.raises(MetricUnavailable, match=r"nowhere.npz.*python -m experiments.zoo.train reference_clean"):
        metric("clean", clean_weights, Path("nowhere.npz")).compute(context)


def test_a_file_that_is_not_the_published_one_is_not_unpickled(tmp_path: Path, context: EvaluationContext) -> None:
    (tmp_path / NAMES[0]).write_bytes(b"anything")
    with pytest.raises(ValueError, match="SHA-256 does not start with 6726825d"):
        metric("torchmetrics", tmp_path / NAMES[0], tmp_path / "reference.npz").compute(context)


def test_statistics_of_clean_fid_are_told_by_their_name(
    clean_weights: Path, context: EvaluationContext, tmp_path: Path
) -> None:
    """They hold no more than the moments; made in another mode they would pass for a reference all the same."""
    for name in ("cifar10_clean_train_32.npz", "cifar10_legacy_tensorflow_train_32.npz"):
        np.savez(tmp_path / name, mu=np.zeros(6), sigma=np.eye(6))
    with pytest.raises(ValueError, match=r"5 images.*more than 6"):  # all that is wrong with it
        metric("clean", clean_weights, tmp_path / "cifar10_clean_train_32.npz").compute(context)
    with pytest.raises(ValueError, match=r"not known to be made in mode clean.*DATA_clean_SPLIT_SIZE.npz"):
        metric("clean", clean_weights, tmp_path / "cifar10_legacy_tensorflow_train_32.npz").compute(context)


def test_a_reference_of_the_same_weights_in_another_mode_is_refused(
    clean_weights: Path, context: EvaluationContext, tmp_path: Path
) -> None:
    path = tmp_path / "reference.npz"
    write_inception_reference(
        path, torch.randn(9, 6, generator=torch.Generator()), mode="legacy_tensorflow", weights=clean_weights
    )
    with pytest.raises(ValueError, match=r"5 images.*more than 6"):
        metric("legacy_tensorflow", clean_weights, path).compute(context)
    with pytest.raises(ValueError, match="not known to be made in mode clean"):
        metric("clean", clean_weights, path).compute(context)


def test_weights_under_another_name_are_refused(tmp_path: Path, context: EvaluationContext) -> None:
    (tmp_path / "inception.pt").write_bytes(b"anything")
    with pytest.raises(ValueError, match=f"must be called {CLEAN_NAME}"):
        metric("clean", tmp_path / "inception.pt", tmp_path / "reference.npz").compute(context)


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_features_equal_those_clean_fid_reads_from_a_folder_of_images(
    mode: Mode, clean_weights: Path, images: Images, tmp_path: Path
) -> None:
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    for i, image_HW in enumerate(images(5, 0)[:, 0].numpy()):
        Image.fromarray(image_HW).convert("RGB").save(tmp_path / f"{i}.png")
    expected = get_folder_features(
        str(tmp_path),
        InceptionV3W(str(clean_weights.parent), download=False, resize_inside=mode == "legacy_tensorflow"),
        mode=mode,
        num_workers=0,
        batch_size=5,
        device=torch.device("cpu"),
        verbose=False,
    )
    found = inception_features(images(5, 0), mode=mode, weights=clean_weights, batch_size=2, device="cpu")
    torch.testing.assert_close(found, torch.from_numpy(expected).double(), rtol=1e-5, atol=1e-5)


def test_torchmetrics_distance_equals_clean_fid_on_the_same_features() -> None:
    generator = torch.Generator().manual_seed(0)
    ours_NF, theirs_NF = torch.randn(2, 90, 7, dtype=torch.float64, generator=generator)
    reference = moments(theirs_NF + 1)
    value = torchmetrics_distance(ours_NF, *reference, ref_count=90)
    assert value == pytest.approx(frechet_distance(*moments(ours_NF), *reference), rel=1e-6)


def test_reference_of_other_weights_is_refused(clean_weights: Path, context: EvaluationContext, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4), count=9, weights="f" * 64)
    with pytest.raises(ValueError, match=r"ffffffffffff.*Rebuild"):
        metric("clean", clean_weights, path).compute(context)


def test_too_few_images_are_refused_before_any_feature(
    clean_weights: Path, context: EvaluationContext, tmp_path: Path
) -> None:
    path = tmp_path / "reference.npz"
    write_inception_reference(path, torch.randn(9, 6, generator=torch.Generator()), mode="clean", weights=clean_weights)
    with pytest.raises(ValueError, match=r"5 images.*more than 6"):
        metric("clean", clean_weights, path).compute(context)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mode='legacy'.*clean, legacy_tensorflow, legacy_pytorch, torchmetrics"):
        replace(metric("clean", Path("a"), Path("b")), mode="legacy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "mode", "arrays", "told"),
    [
        ("a_clean_b.npz", "clean", {"mu": 768, "sigma": 768}, r"mu and sigma are \[768\] and \[768, 768\]"),
        ("a_clean_b.npz", "clean", {"mu": 2048}, r"mu and sigma are \[2048\] and None"),
        ("a_legacy_pytorch_b.npz", "clean", {"mu": 2048, "sigma": 2048}, "not known to be made in mode clean"),
        ("a_torchmetrics_b.npz", "torchmetrics", {"mu": 2048, "sigma": 2048}, "does not say of how many images"),
        ("a_clean_b.npz", "clean", {}, "is no npz file"),
    ],
)
def test_statistics_that_cannot_serve_are_refused_before_images_are_drawn(
    name: str, mode: Mode, arrays: dict[str, int], told: str, tmp_path: Path
) -> None:
    shapes = {key: (size, size) if key == "sigma" else (size,) for key, size in arrays.items()}
    if arrays:
        np.savez(tmp_path / name, **{key: np.zeros(shape, np.uint8) for key, shape in shapes.items()})  # type: ignore[arg-type]
    else:
        (tmp_path / name).write_bytes(b"404 not found")
    judge = metric(mode, tmp_path / "weights.pt", tmp_path / name)
    with pytest.raises(ValueError, match=rf"^metrics.fid.reference=.*{told}"):
        check_files({"fid": judge})
    with pytest.raises(ValueError, match=r"metrics.fid with sample.num_images=2048: .* needs more than 2048"):
        check_metrics({"fid": judge}, Drawn(num_images=2048, shape=(1, 32, 32), captioned=False))
