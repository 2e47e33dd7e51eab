"""Corrections against textbook least squares, and against what the release's formula does to a bias."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.channel_affine import ChannelAffineFit
from cq.correct.fit import r_squared, residual_sum_of_squares
from cq.correct.none import NoCorrection
from cq.correct.offset_only import OffsetOnly
from cq.correct.release import ReleaseAffine
from cq.laws.drift import drifting_maps
from tests.oracles.least_squares import lstsq_per_channel

AFFINE = ChannelAffineFit(min_variance=1e-10)
FITTED: list[Corrector] = [AFFINE, OffsetOnly(), ReleaseAffine()]


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """float64 normal equations on some 100 samples whose spread is near their size lose six digits at most."""
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def fitted(corrector: Corrector, moments: PairMoments, *, bias_C: Tensor | None = None) -> tuple[Tensor, Tensor]:
    found = corrector.fit(moments, bias_C=bias_C)
    assert found is not None
    return found


def error(source: Tensor, target: Tensor, gain_TC: Tensor, offset_TC: Tensor) -> Tensor:
    """target - gain * source - offset, [N, C, H, W]."""
    return target - gain_TC[0].view(1, -1, 1, 1) * source - offset_TC[0].view(1, -1, 1, 1)


def per_channel(values_NCHW: Tensor) -> Tensor:
    """Sum of squares, [C]."""
    return values_NCHW.square().sum((0, 2, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_channel_affine_equals_lstsq(seed: int) -> None:
    source, target = drifting_maps(2, seed=seed)
    gain, offset = fitted(AFFINE, PairMoments.of(source, target))
    expected_gain, expected_offset = lstsq_per_channel(source, target)
    assert_equal(gain[0], expected_gain)
    assert_equal(offset[0], expected_offset)


def test_exactly_affine_data_give_back_gain_and_offset() -> None:
    source = drifting_maps(1, seed=0)[0]
    gain = torch.tensor([2.0, -0.5, 0.0, 1.0], dtype=torch.float64)
    offset = torch.tensor([1.0, 0.0, -3.0, 0.0], dtype=torch.float64)
    found = fitted(AFFINE, PairMoments.of(source, gain.view(1, -1, 1, 1) * source + offset.view(1, -1, 1, 1)))
    assert_equal(found[0][0], gain)
    assert_equal(found[1][0], offset)


@pytest.mark.parametrize("corrector", [AFFINE, OffsetOnly()], ids=repr)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_channel_is_worse_than_uncorrected_on_the_data_it_was_fitted_to(corrector: Corrector, seed: int) -> None:
    source, target = drifting_maps(2, seed=seed)
    after = per_channel(error(source, target, *fitted(corrector, PairMoments.of(source, target))))
    assert (after <= per_channel(target - source) * (1 + 1e-12)).all()  # rounding


def test_gain_and_offset_leave_no_more_than_the_offset_alone() -> None:
    source, target = drifting_maps(2, seed=1)
    moments = PairMoments.of(source, target)
    both, alone = (per_channel(error(source, target, *fitted(fit, moments))) for fit in (AFFINE, OffsetOnly()))
    assert (both <= alone * (1 + 1e-12)).all()  # rounding


@pytest.mark.parametrize("corrector", FITTED, ids=repr)
def test_mean_error_is_zero_in_every_channel(corrector: Corrector) -> None:
    source, target = drifting_maps(2, seed=2)
    left = error(source, target, *fitted(corrector, PairMoments.of(source, target))).mean((0, 2, 3))
    assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-12)  # rounding of means near 1


@pytest.mark.parametrize("corrector", FITTED, ids=repr)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e4, -1e-20])
def test_a_constant_channel_is_moved_to_the_targets_mean(corrector: Corrector, value: float) -> None:
    source, target = drifting_maps(2, seed=3)
    source[:, 1] = value
    gain, offset = fitted(corrector, PairMoments.of(source, target))
    assert gain.isfinite().all()
    assert offset.isfinite().all()
    if not isinstance(corrector, ReleaseAffine):  # its guard catches exact zeros only
        assert gain[0, 1] == 1
        assert_close(offset[0, 1], target[:, 1].mean() - value, rtol=1e-11, atol=1e-11)  # mean of 75 numbers of 1e4


def test_the_variance_guard_starts_where_it_says() -> None:
    source, target = drifting_maps(2, seed=4)
    source = 10.0 + 1e-3 * source  # variance about 1e-8 of the mean square
    moments = PairMoments.of(source, target)
    assert (fitted(ChannelAffineFit(min_variance=1e-10), moments)[0] != 1).all()
    assert (fitted(ChannelAffineFit(min_variance=1e-6), moments)[0] == 1).all()


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5, 3e5])
def test_an_offset_that_both_share_does_not_hide_the_gain(offset: float) -> None:
    """The oracle centres the numbers before it multiplies them, and in exact fractions loses nothing."""
    source, target = (x.round(decimals=3) for x in drifting_maps(2, seed=7))
    gain, shift = fitted(AFFINE, PairMoments.of(source + offset, target + offset))
    for c in range(source.shape[1]):
        x, y = ([Fraction(float(v)) for v in (maps[:, c] + offset).flatten()] for maps in (source, target))
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        exact = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
        # the variance is the difference of sums offset^2 times as large, of which 16 digits are known
        assert abs(float(gain[0, c]) - float(exact)) <= max(1e-9, 1e-14 * offset**2)
        assert abs(float(gain[0, c] * float(mean_x) + shift[0, c]) - float(mean_y)) <= 1e-9 * max(1.0, offset)


def test_a_constant_behind_a_shared_offset_is_moved_to_the_targets_mean() -> None:
    source, target = drifting_maps(2, seed=3)
    source[:, 1], target = 1e5 + 0.1, target + 1e5
    gain, offset = fitted(AFFINE, PairMoments.of(source, target))
    assert gain[0, 1] == 1
    assert_close(offset[0, 1], target[:, 1].mean() - (1e5 + 0.1), rtol=1e-6, atol=1e-6)


def test_half_precision_maps_are_fitted_in_float64() -> None:
    source, target = (x.half() for x in drifting_maps(2, seed=5))
    gain, offset = fitted(AFFINE, PairMoments.of(source, target))
    assert gain.dtype == offset.dtype == torch.float64
    expected = lstsq_per_channel(source.double(), target.double())
    assert_equal(gain[0], expected[0])
    assert_equal(offset[0], expected[1])


def test_rows_are_fitted_independently() -> None:
    maps = drifting_maps(4, seed=6)
    rows = [PairMoments.of(maps[t], maps[t + 1]) for t in range(3)]
    gain, offset = fitted(AFFINE, PairMoments.stack(rows))
    for t, row in enumerate(rows):
        alone = fitted(AFFINE, row)
        assert torch.equal(gain[t], alone[0][0])
        assert torch.equal(offset[t], alone[1][0])


def test_a_map_fitted_to_itself_needs_no_correction() -> None:
    source = drifting_maps(1, seed=7)[0]
    gain, offset = fitted(AFFINE, PairMoments.of(source, source))
    assert_equal(gain, torch.ones_like(gain))
    assert_equal(offset, torch.zeros_like(offset))


def test_no_correction_is_none() -> None:
    source, target = drifting_maps(2, seed=8)
    assert not NoCorrection().corrects
    gain, offset = NoCorrection().fit(PairMoments.of(source, target), bias_C=None)
    assert (gain == 1).all()
    assert (offset == 0).all()


def test_release_slope_is_least_squares_times_n_minus_one_over_n() -> None:
    source, target = drifting_maps(2, seed=9)
    moments = PairMoments.of(source, target)
    n = float(moments.count)
    x, y = (m.transpose(0, 1).flatten(1) for m in (source, target))
    by_hand = ((x - x.mean(1, keepdim=True)) * (y - y.mean(1, keepdim=True))).mean(1) / x.var(1)  # 1/n over 1/(n-1)
    gain, _ = fitted(ReleaseAffine(), moments)
    assert_equal(gain[0], by_hand)
    assert_equal(gain, fitted(AFFINE, moments)[0] * (n - 1) / n)


def test_release_equals_a_fit_of_the_biased_outputs() -> None:
    source, target = drifting_maps(2, seed=10)
    bias = torch.tensor([5.0, -3.0, 0.0, 100.0], dtype=torch.float64)
    plain = fitted(ReleaseAffine(), PairMoments.of(source, target), bias_C=bias)
    shifted = PairMoments.of(source + bias.view(1, -1, 1, 1), target + bias.view(1, -1, 1, 1))
    biased = fitted(ReleaseAffine(), shifted)
    assert_equal(plain[0], biased[0])
    assert_close(plain[1], biased[1], rtol=1e-7, atol=1e-7)  # a bias of 100 costs the squares four digits


def output_errors(corrector: Corrector, *, bias: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Gain [C] and mean error [C] of layer outputs: the half that is corrected has no bias, the other adds it."""
    quantized, true = drifting_maps(2, seed=seed)  # bias-free outputs of the corrected half
    gain, offset = fitted(corrector, PairMoments.of(quantized, true), bias_C=bias)
    other_half = drifting_maps(1, seed=seed + 1)[0]
    wide = bias.view(1, -1, 1, 1)
    expected = true + other_half + wide
    applied = gain[0].view(1, -1, 1, 1) * quantized + offset[0].view(1, -1, 1, 1) + (other_half + wide)
    return gain[0], (applied - expected).mean((0, 2, 3))


def test_release_is_off_by_the_bias_times_one_minus_gain_and_channel_affine_is_not() -> None:
    bias = torch.tensor([5.0, -3.0, 0.0, 100.0], dtype=torch.float64)
    gain, mean_error = output_errors(ReleaseAffine(), bias=bias, seed=11)
    assert_close(mean_error, (1 - gain) * bias, rtol=1e-10, atol=1e-10)  # means of numbers near 100
    assert mean_error.abs().max() > 0.1  # or the claim would be empty
    _, correct = output_errors(AFFINE, bias=bias, seed=11)
    assert_close(correct, torch.zeros_like(correct), rtol=0, atol=1e-10)  # means of numbers near 100


def test_a_single_element_gives_a_finite_release_fit() -> None:
    gain, offset = fitted(ReleaseAffine(), PairMoments.of(torch.full((1, 2), 3.0), torch.full((1, 2), 5.0)))
    assert torch.equal(gain, torch.ones_like(gain))
    assert torch.equal(offset, torch.full_like(offset, 2.0))


def test_residual_sum_of_squares_equals_that_of_the_maps_for_any_gain_and_offset() -> None:
    source, target = drifting_maps(2, seed=12)
    moments = PairMoments.of(source, target)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        gain, offset = (torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        direct = per_channel(error(source, target, gain, offset))[None]
        assert_equal(residual_sum_of_squares(moments, gain, offset), direct)


def test_residual_sum_of_squares_is_never_negative_for_an_exact_fit() -> None:
    for seed in range(5):
        source = drifting_maps(1, seed=seed)[0]
        moments = PairMoments.of(source, 3 * source + 1)
        assert (residual_sum_of_squares(moments, *fitted(AFFINE, moments)) >= 0).all()


def test_r_squared_is_one_for_an_exact_fit_and_zero_for_the_mean() -> None:
    source = drifting_maps(1, seed=13)[0]
    moments = PairMoments.of(source, 3 * source + 1)
    ones = torch.ones(1, 4, dtype=torch.float64)
    assert_equal(r_squared(moments, 3 * ones, ones), ones)
    assert_equal(r_squared(moments, 0 * ones, moments.target_TC / moments.count), 0 * ones)
    assert (r_squared(moments, -3 * ones, ones) < 0).all()


def test_r_squared_equals_the_squared_correlation_of_a_least_squares_fit() -> None:
    source, target = drifting_maps(2, seed=14)
    moments = PairMoments.of(source, target)
    for c in range(4):
        expected = torch.corrcoef(torch.stack([source[:, c].flatten(), target[:, c].flatten()]))[0, 1] ** 2
        assert_equal(r_squared(moments, *fitted(AFFINE, moments))[0, c], expected)


def test_r_squared_of_a_constant_target_says_whether_it_is_met() -> None:
    source = drifting_maps(1, seed=15)[0]
    moments = PairMoments.of(source, torch.full_like(source, 0.7))
    gain = torch.zeros(1, 4, dtype=torch.float64)
    assert (r_squared(moments, gain, gain + 0.7) == 1).all()
    assert (r_squared(moments, gain, gain + 0.9) == 0).all()


def test_negative_or_infinite_variance_guard_is_refused_by_name() -> None:
    for value in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"correct.min_variance="):
            ChannelAffineFit(min_variance=value)


@pytest.mark.parametrize("corrector", [NoCorrection(), *FITTED], ids=repr)
def test_it_is_a_corrector(corrector: object) -> None:
    assert isinstance(corrector, Corrector)
