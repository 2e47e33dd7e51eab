import pytest
import torch
from torch import Tensor, nn

from cq.evaluate.bootstrap import resampled_counts
from cq.evaluate.gaussian import FrechetToReference, check_count, frechet_distance, moments


def features(count: int, seed: int, *, dim: int = 12) -> Tensor:
    """Correlated, shifted rows with one nearly constant column."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    rows = torch.randn(count, dim, dtype=torch.float64, generator=generator) @ mixing + seed
    rows[:, 0] *= 1e-3
    return rows


def test_moments_equal_the_two_pass_formula() -> None:
    rows_NF = features(50, 1)
    mu_F, sigma_FF = moments(rows_NF.float())
    exact_NF = rows_NF.float().double()
    expected = sum(torch.outer(row - mu_F, row - mu_F) for row in exact_NF) / 49
    torch.testing.assert_close(mu_F, exact_NF.mean(0))
    torch.testing.assert_close(sigma_FF, torch.as_tensor(expected))


def test_distance_of_diagonal_gaussians_has_its_closed_form() -> None:
    mu, other_mu = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.0, 4.0]).double()
    std, other_std = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    expected = float((mu - other_mu).square().sum() + (std - other_std).square().sum())
    ours = FrechetToReference(other_mu, other_std.square().diag()).distance(mu, std.square().diag())
    assert frechet_distance(mu, std.square().diag(), other_mu, other_std.square().diag()) == pytest.approx(expected)
    torch.testing.assert_close(float(ours), expected)


def test_equal_sets_are_at_distance_zero() -> None:
    mu_F, sigma_FF = moments(features(100, 2))
    tolerance = 1e-7 * float(sigma_FF.trace())  # the root of a rounding error, 1e-8 of the trace, a few times
    assert 0 <= frechet_distance(mu_F, sigma_FF, mu_F, sigma_FF) < tolerance
    assert abs(float(FrechetToReference(mu_F, sigma_FF).distance(mu_F, sigma_FF))) < tolerance


def test_ours_equals_clean_fid_and_torchmetrics_on_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    ours_NF, theirs_NF = features(80, 1), features(120, 2)
    value = frechet_distance(*moments(ours_NF), *moments(theirs_NF))
    identity = nn.Identity()
    identity.num_features = ours_NF.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity)
    metric.update(ours_NF, real=False)
    metric.update(theirs_NF, real=True)
    fast = float(FrechetToReference(*moments(theirs_NF)).distance(*moments(ours_NF)))
    assert fast == pytest.approx(value, rel=1e-6)
    assert float(metric.compute()) == pytest.approx(value, rel=1e-6)


def test_ours_equals_clean_fid_where_a_feature_is_dead() -> None:
    ours_NF, theirs_NF = features(80, 1), features(120, 2)
    ours_NF[:, 3] = theirs_NF[:, 3] = 0
    value = frechet_distance(*moments(ours_NF), *moments(theirs_NF))
    fast = float(FrechetToReference(*moments(theirs_NF)).distance(*moments(ours_NF)))
    assert fast == pytest.approx(value, rel=1e-6)


def test_resampling_by_counts_equals_copying_rows() -> None:
    rows_NF, reference = features(60, 1), FrechetToReference(*moments(features(90, 2)))
    value = float(reference.distance(*moments(rows_NF)))
    copied = torch.stack(
        [
            reference.distance(*moments(rows_NF.repeat_interleave(counts_N.long(), 0)))
            for counts_N in resampled_counts(60, resamples=40, seed=5)
        ]
    )
    spread = copied - copied.mean()
    low, high = reference.interval(value, rows_NF, resamples=40, seed=5)
    torch.testing.assert_close(low, max(0.0, value + float(spread.quantile(0.025))))
    torch.testing.assert_close(high, value + float(spread.quantile(0.975)))


def test_interval_covers_the_distance_it_estimates() -> None:
    # two dimensions and many rows: the bias of the plug-in value is small beside the spread
    reference = FrechetToReference(torch.zeros(2).double(), torch.eye(2).double())
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        rows_NF = 2 * torch.randn(300, 2, dtype=torch.float64, generator=generator) + 1
        value = float(reference.distance(*moments(rows_NF)))
        low, high = reference.interval(value, rows_NF, resamples=100, seed=seed)
        covered += low <= 4.0 <= high  # |1|^2 + |1|^2 + (2 - 1)^2 + (2 - 1)^2
    assert covered >= 52  # 95 % of 60, less two standard errors and a resampling of 100


def test_order_of_images_does_not_matter() -> None:
    rows_NF, reference = features(80, 1), moments(features(120, 2))
    shuffled_NF = rows_NF[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    expected = frechet_distance(*moments(rows_NF), *reference)
    # the nearly constant column leaves clean-fid's square root with half the digits
    assert frechet_distance(*moments(shuffled_NF), *reference) == pytest.approx(expected, rel=1e-6)


def test_fewer_images_than_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"12 images.*more than 12"):
        check_count(12, 12)
    check_count(13, 12)
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.zeros(1, 3))
