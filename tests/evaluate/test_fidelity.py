import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate.feature_distance import FeatureDistance
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.fidelity import Fidelity, psnr_db, relative_error, ssim
from cq.evaluate.protocol import EvaluationContext
from cq.run.preflight import check_sizes

METRIC = Fidelity(batch_size=4, psnr_cap_db=100.0, resamples=50, bootstrap_seed=0)

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]


def latents(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def pair(ours: SampleSet, theirs: SampleSet | None) -> EvaluationContext:
    return EvaluationContext(samples=ours, baseline=theirs, sampling={"steps": 10})


def test_psnr_of_a_constant_difference_has_its_closed_form() -> None:
    black = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    values_N = psnr_db(black + torch.tensor([1, 5, 0]).byte()[:, None, None, None], black, cap_db=100.0, batch_size=2)
    expected = [20 * math.log10(255), 20 * math.log10(51), 100.0]
    torch.testing.assert_close(values_N, torch.tensor(expected, dtype=torch.float64))


def test_psnr_does_not_wrap_round_below_zero(images: Images) -> None:
    low, high = torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(psnr_db(low, high, cap_db=100.0, batch_size=1), torch.zeros(1, dtype=torch.float64))


def test_one_grey_level_in_one_pixel_stays_below_the_cap() -> None:
    ours = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    theirs = ours.clone()
    theirs[0, 0, 3, 3] = 1
    assert float(psnr_db(ours, theirs, cap_db=100.0, batch_size=1)) == pytest.approx(20 * math.log10(255 * 32))


def test_ssim_is_one_for_equal_images_and_less_for_others(images: Images) -> None:
    theirs = images(5, 0)
    torch.testing.assert_close(ssim(theirs, theirs, batch_size=2), torch.ones(5, dtype=torch.float64))
    noisy = (theirs.int() + torch.randint(-20, 21, theirs.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 255
    )
    assert float(ssim(noisy.byte(), theirs, batch_size=2).max()) < 0.99


def test_ssim_of_two_constant_images_is_the_luminance_term() -> None:
    ours = torch.full((1, 1, 32, 32), 100, dtype=torch.uint8)
    theirs = torch.full((1, 1, 32, 32), 150, dtype=torch.uint8)
    constant = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + constant) / (100**2 + 150**2 + constant)
    assert float(ssim(ours, theirs, batch_size=1)) == pytest.approx(expected, rel=1e-9)


def by_definition(x_HW: np.ndarray, y_HW: np.ndarray) -> float:
    """Window by window, as scikit-image with gaussian_weights and population covariances; none is over an edge."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for top in range(x_HW.shape[0] - 10):
        for left in range(x_HW.shape[1] - 10):
            x, y = (image[top : top + 11, left : left + 11].astype(np.float64) for image in (x_HW, y_HW))
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            both = (weights * (x - mean_x) * (y - mean_y)).sum()
            variances = (weights * ((x - mean_x) ** 2 + (y - mean_y) ** 2)).sum()
            luminance = (2 * mean_x * mean_y + 2.55**2) / (mean_x**2 + mean_y**2 + 2.55**2)
            values.append(luminance * (2 * both + 7.65**2) / (variances + 7.65**2))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 13, 20), (1, 2, 11, 11)])
def test_ssim_is_the_mean_over_the_windows_that_lie_whole_within_the_image(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    theirs = torch.randint(0, 256, shape, generator=generator)
    ours = (theirs + torch.randint(-60, 61, shape, generator=generator)).clamp(0, 255)
    expected = [
        np.mean([by_definition(*pair) for pair in zip(x.numpy(), y.numpy(), strict=True)])
        for x, y in zip(ours, theirs, strict=True)
    ]
    for batch_size in (1, 5):
        found = ssim(ours.byte(), theirs.byte(), batch_size=batch_size)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_ssim_of_images_smaller_than_a_window_is_refused() -> None:
    small = torch.zeros(2, 3, 32, 10, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images of 10x32: SSIM compares windows of 11x11 pixels"):
        ssim(small, small, batch_size=2)
    with pytest.raises(ValueError, match=r"metrics.fidelity with model.image_shape=\[3, 8, 16\]: images of 16x8: SSIM"):
        check_sizes({"fidelity": METRIC}, (3, 8, 16))
    check_sizes({"fidelity": METRIC}, (3, 11, 11))


def test_relative_error_is_the_norm_of_the_difference_over_the_norm() -> None:
    theirs = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(
        relative_error(theirs + torch.tensor([[1.0, 0.0], [0.0, 1.0]]), theirs),
        torch.tensor([0.2, 0.5], dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="norm zero"):
        relative_error(theirs, torch.zeros(2, 2))


def test_equal_sets_score_ideally(images: Images, samples: Samples, network_folder: Path) -> None:
    same = samples(images(6, 0), latents(6, 0))
    context = pair(same, same)
    scores = METRIC.compute(context)
    assert {name: score.value for name, score in scores.items()} == {
        "psnr_fp_db": 100.0,
        "ssim_fp": pytest.approx(1.0),
        "latent_error_fp": 0.0,
    }
    assert scores["latent_error_fp"].curve == (0.0, 0.0)
    distance = FeatureDistance(features=str(network_folder), batch_size=4, resamples=50, bootstrap_seed=0)
    assert distance.compute(context)["feature_distance_own_fp"].value == 0.0


def test_scores_are_means_over_pairs_and_the_curve_follows_the_calls(images: Images, samples: Samples) -> None:
    theirs = samples(images(6, 0), latents(6, 0))
    ours = samples(images(6, 1), latents(6, 0) * 1.5)
    scores = METRIC.compute(pair(ours, theirs))
    psnr_N = psnr_db(ours.images_NCHW, theirs.images_NCHW, cap_db=100.0, batch_size=6)
    assert scores["psnr_fp_db"].value == pytest.approx(float(psnr_N.mean()))
    assert scores["latent_error_fp"].value == pytest.approx(0.5)
    torch.testing.assert_close(scores["latent_error_fp"].curve, (0.0, 0.5))
    assert scores["latent_error_fp"].protocol["num_traced"] == 2
    for score in scores.values():
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high


def test_feature_distance_is_relative_to_the_mean_norm(
    images: Images, samples: Samples, network_folder: Path, network: FeatureNetwork
) -> None:
    ours, theirs = images(6, 0), images(6, 1)
    f, g = (network.extract(x, batch_size=4).pooled_NF for x in (ours, theirs))
    expected = sum(float((a - b).norm()) for a, b in zip(f, g, strict=True)) / sum(float(b.norm()) for b in g)
    distance = FeatureDistance(features=str(network_folder), batch_size=4, resamples=50, bootstrap_seed=0)
    score = distance.compute(pair(samples(ours, latents(6, 0)), samples(theirs, latents(6, 0))))
    assert score["feature_distance_own_fp"].value == pytest.approx(expected)


def test_order_of_pairs_does_not_matter(images: Images, samples: Samples) -> None:
    ours, theirs = images(6, 0), images(6, 1)
    there = METRIC.compute(pair(samples(ours, latents(6, 0)), samples(theirs, latents(6, 1))))
    back = METRIC.compute(
        pair(samples(ours.flip(0), latents(6, 0).flip(0)), samples(theirs.flip(0), latents(6, 1).flip(0)))
    )
    for name, score in there.items():
        torch.testing.assert_close(back[name].value, score.value)


def test_no_trace_means_no_curve(images: Images, samples: Samples) -> None:
    plain = replace(samples(images(3, 0), latents(3, 0)), trace_TNCHW=torch.zeros(5, 0, 4, 8, 8))
    assert METRIC.compute(pair(plain, plain))["latent_error_fp"].curve == ()


def test_a_baseline_of_other_calls_is_compared_by_its_images_and_has_no_curve(images: Images, samples: Samples) -> None:
    theirs = samples(images(6, 0), latents(6, 0))
    ours = samples(images(6, 1), latents(6, 0) * 1.5)
    alike = METRIC.compute(pair(ours, theirs))
    longer = replace(theirs, trace_TNCHW=torch.cat([theirs.trace_TNCHW, theirs.trace_TNCHW]))
    for baseline in (theirs, longer):  # another solver with as many calls; more steps
        found = METRIC.compute(replace(pair(ours, baseline), same_calls=False))
        assert found["latent_error_fp"].curve == ()
        for name, score in alike.items():
            assert (found[name].value, found[name].low, found[name].high) == (score.value, score.low, score.high)
            assert found[name].fingerprint == score.fingerprint


def test_the_baselines_solver_belongs_to_the_protocol_of_pairs(images: Images, samples: Samples) -> None:
    same = samples(images(3, 0), latents(3, 0))
    usual, other = pair(same, same), replace(pair(same, same), solver="PLMS()")
    for name, score in METRIC.compute(other).items():
        assert score.protocol["baseline"].endswith("same seeds, PLMS()")
        assert score.fingerprint != METRIC.compute(usual)[name].fingerprint


def test_sets_that_are_no_pairs_are_refused(images: Images, samples: Samples) -> None:
    ours = samples(images(3, 0), latents(3, 0))
    with pytest.raises(ValueError, match=r"baseline=None.*full-precision"):
        METRIC.compute(pair(ours, None))
    with pytest.raises(ValueError, match=r"differ from samples.seeds from row 1 on.*same seeds"):
        METRIC.compute(pair(ours, replace(ours, seeds=(0, 7, 2))))
    with pytest.raises(ValueError, match=r"from row 2 on \(2 and 3 images\)"):
        METRIC.compute(pair(ours, samples(images(2, 0), latents(2, 0))))
    with pytest.raises(ValueError, match="labels_N differ"):
        METRIC.compute(pair(ours, replace(ours, labels_N=ours.labels_N + 1)))
    with pytest.raises(ValueError, match=r"baseline.trace_TNCHW has shape"):
        METRIC.compute(pair(ours, replace(ours, trace_TNCHW=ours.trace_TNCHW[:1])))
