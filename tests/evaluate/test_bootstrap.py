import pytest
import torch

from cq.evaluate.bootstrap import check_resamples, interval_around, interval_of_mean, resampled_counts


def test_counts_of_a_resample_sum_to_the_number_of_images() -> None:
    for counts_N in resampled_counts(7, resamples=50, seed=0):
        assert counts_N.shape == (7,)
        assert counts_N.sum() == 7


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values_N = torch.arange(20, dtype=torch.float64)
    first = interval_of_mean(values_N, resamples=100, seed=3)
    assert first == interval_of_mean(values_N, resamples=100, seed=3)
    assert first != interval_of_mean(values_N, resamples=100, seed=4)


def test_interval_covers_a_known_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(300, 60, dtype=torch.float64, generator=generator) * 2 + 5
    intervals = [interval_of_mean(values_N, resamples=200, seed=i) for i, values_N in enumerate(draws)]
    covered = sum(low <= 5 <= high for low, high in intervals) / len(intervals)
    assert 0.90 <= covered <= 0.98  # 0.95 with a standard error of 0.013, less what 60 images cost a percentile


def test_interval_of_a_mean_is_two_standard_errors_wide_either_side() -> None:
    values_N = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    low, high = interval_of_mean(values_N, resamples=4000, seed=0)
    expected = 2 * 1.96 * float(values_N.std()) / 400**0.5
    assert abs((high - low) / expected - 1) < 0.06  # the quantiles of 4000 resamples are known to 3 %


def test_a_constant_has_an_interval_of_no_width() -> None:
    assert interval_of_mean(torch.full((9,), 2.0, dtype=torch.float64), resamples=50, seed=0) == (2.0, 2.0)


def test_bias_of_the_resamples_does_not_move_the_interval() -> None:
    resampled_R = torch.linspace(-1, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(interval_around(10.0, resampled_R + 7), interval_around(10.0, resampled_R))
    torch.testing.assert_close(tuple(interval_around(10.0, resampled_R)), (9.05, 10.95))


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resamples=39.*at least 40"):
        check_resamples(39)
