"""Ranges against numpy and brute force; histograms against counting by hand."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cq.quantize import observers
from cq.quantize.affine import choose_qparams
from cq.quantize.observers import ErrorSearch, Histogram, MinMax, Observer, Percentile, Support, Symmetric
from tests.oracles.quantization import histogram_of, range_error, search_errors

SEARCH = ErrorSearch(power=2.4, candidates=40, step=0.02)
FACTORS = [1 - i * SEARCH.step for i in range(SEARCH.candidates)]


def skewed(*shape: int, seed: int = 0) -> Tensor:
    """Values like a layer's: mostly near zero, a few far out, one-sided in places."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.3, x.abs() ** 3, torch.nn.functional.silu(x))


def histogram(*batches: Tensor) -> Histogram:
    out = Histogram()
    for batch in batches:
        out.update(batch)
    return out


def row(support: Support, index: int) -> tuple[Tensor, Tensor]:
    return support.values_RM[index], support.counts_RM[index]


def test_min_max_is_everything_that_was_seen() -> None:
    low, high = MinMax().range(Support.of_rows(torch.tensor([[3.0, -1.0, 2.0], [5.0, 5.0, 4.0]])), 8)
    assert low.tolist() == [-1.0, 4.0]
    assert high.tolist() == [3.0, 5.0]


def test_percentile_leaves_out_that_many_values_at_either_end() -> None:
    support = Support.of_rows(torch.arange(1000.0)[torch.randperm(1000)][None])
    low, high = Percentile(percentile=99.0).range(support, 8)
    assert (float(low), float(high)) == (5.0, 994.0)


@pytest.mark.parametrize("percentile", [60.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_equals_numpys_inverted_cdf_from_either_end(percentile: float) -> None:
    x = skewed(3, 777)  # no percentile above falls exactly between two of 777 values
    low, high = Percentile(percentile=percentile).range(Support.of_rows(x), 8)
    upper = 50 + percentile / 2
    assert_close(high.numpy(), np.percentile(x.numpy(), upper, axis=1, method="inverted_cdf"), rtol=0, atol=0)
    assert_close(low.numpy(), -np.percentile(-x.numpy(), upper, axis=1, method="inverted_cdf"), rtol=0, atol=0)


def test_percentile_weighs_values_by_their_counts() -> None:
    x = skewed(1, 300).mul(8).round_()
    values, counts = (torch.from_numpy(array) for array in np.unique(x[0].numpy(), return_counts=True))
    counted = Support(values_RM=values[None], counts_RM=counts[None].double(), low_R=values[:1], high_R=values[-1:])
    for percentile in (60.0, 97.0):
        observer = Percentile(percentile=percentile)
        assert observer.range(counted, 8) == observer.range(Support.of_rows(x), 8)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("power", [1.0, 2.0, 2.4])
def test_error_search_picks_the_candidate_of_a_brute_force_loop(bits: int, power: float) -> None:
    support = Support.of_rows(skewed(6, 300) * torch.logspace(-3, 3, 6)[:, None])
    low, high = ErrorSearch(power=power, candidates=40, step=0.02).range(support, bits)
    for r in range(6):
        values, counts = row(support, r)
        errors = search_errors(values, counts, factors=FACTORS, bits=bits, power=power)
        best = FACTORS[errors.index(min(errors))]
        expected = torch.stack([values.min(), values.max()]).double() * best
        assert_close(torch.stack([low[r], high[r]]), expected.float(), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("base", [MinMax(), Percentile(percentile=99.0), SEARCH], ids=lambda base: type(base).__name__)
def test_symmetric_grids_have_their_zero_in_the_middle_and_cover_the_bases_range(base: Observer, bits: int) -> None:
    support = Support.of_rows(skewed(8, 300) * torch.logspace(-6, 6, 8)[:, None])
    scale, zero_point = choose_qparams(*Symmetric(base=base).range(support, bits), bits)
    assert zero_point.tolist() == [2 ** (bits - 1)] * 8
    if base is SEARCH:
        return  # see below
    low, high = base.range(support, bits)
    assert_close(scale, torch.maximum(-low / 2 ** (bits - 1), high / (2 ** (bits - 1) - 1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_symmetric_grid_is_the_best_of_a_brute_force_loop(bits: int) -> None:
    support = Support.of_rows(skewed(6, 300))
    scale, _ = choose_qparams(*Symmetric(base=SEARCH).range(support, bits), bits)
    half = 2 ** (bits - 1)
    for r in range(6):
        values = support.values_RM[r].double()
        largest = max(float(-values.min()) / half, float(values.max()) / (half - 1))

        def error(step: float, values: Tensor = values) -> float:
            steps = (values / step).round().clamp(-half, half - 1)
            return float((steps * step - values).abs().pow(2.4).sum())

        best = min(error(factor * largest) for factor in FACTORS)
        assert error(float(scale[r])) == pytest.approx(best, rel=1e-3)


def test_error_search_on_a_histogram_is_the_same_loop_with_counts() -> None:
    support = histogram(skewed(20_000)).support()
    low, high = SEARCH.range(support, 4)
    values, counts = row(support, 0)
    errors = [
        range_error(values, counts, low=support.low_R[0] * f, high=support.high_R[0] * f, bits=4, power=2.4)
        for f in FACTORS
    ]
    best = FACTORS[errors.index(min(errors))]
    assert best < 1  # there are outliers to cut off
    assert float(high) == float((support.high_R.double() * best).float())
    assert float(low) == float((support.low_R.double() * best).float())


@pytest.mark.parametrize("at_once", [1, 2000, 10**9])
def test_how_many_candidates_are_tried_at_once_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for support in (histogram(skewed(5000)).support(), Support.of_rows(skewed(7, 90))):
        expected = SEARCH.range(support, 8)
        monkeypatch.setattr(observers, "_ELEMENTS_AT_ONCE", at_once)
        found = SEARCH.range(support, 8)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_the_error_found_is_never_above_min_max(seed: int, bits: int) -> None:
    support = Support.of_rows(skewed(3, 50, seed=seed))
    found, plain = SEARCH.range(support, bits), MinMax().range(support, bits)
    for r in range(3):
        searched, widest = (
            range_error(*row(support, r), low=low[r], high=high[r], bits=bits, power=2.4)
            for low, high in (found, plain)
        )
        assert searched <= widest * (1 + 1e-12)  # one sum in two orders


def test_the_largest_range_wins_a_tie() -> None:
    """With two bits, both 0, 2, 4, 6 and 0, 1, 2, 3 represent 0 and 2."""
    two = Support(
        values_RM=torch.tensor([[0.0, 2.0]]), counts_RM=torch.ones(1, 2, dtype=torch.float64),
        low_R=torch.zeros(1), high_R=torch.tensor([6.0]),
    )  # fmt: skip
    assert float(ErrorSearch(power=2.0, candidates=2, step=0.5).range(two, 2)[1]) == 6.0


@pytest.mark.parametrize("observer", [MinMax(), Percentile(percentile=99.0), SEARCH], ids=repr)
@pytest.mark.parametrize(
    "x",
    [torch.zeros(4, 20), torch.full((4, 20), 0.7), torch.rand(4, 20) * 0.2 + 1.0],
    ids=["zero", "constant", "[1, 1.2]"],
)
def test_degenerate_data_give_finite_parameters_inside_the_code_range(observer: observers.Observer, x: Tensor) -> None:
    for support in (Support.of_rows(x), histogram(x).support()):
        scale, zero_point = choose_qparams(*observer.range(support, 8), 8)
        assert scale.isfinite().all()
        assert (scale > 0).all()
        assert ((zero_point >= 0) & (zero_point <= 255)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Percentile(percentile=50.0), lambda: Percentile(percentile=100.1),
        lambda: ErrorSearch(power=0.0, candidates=1, step=0.1), lambda: ErrorSearch(power=2.0, candidates=0, step=0.1),
        lambda: ErrorSearch(power=2.0, candidates=11, step=0.1),
    ],
)  # fmt: skip
def test_impossible_observers_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="must"):
        make()


# values of every size, on powers of two and just beside zero, where a rounded bin index would go wrong
sizes = st.sampled_from([0.0, 1e-10, 2.0**-20, 1e-3, 0.25, 1.0, 3.0, 1000.0])
values = st.builds(
    lambda size, sign, jitter: sign * size * jitter, sizes, st.sampled_from([-1.0, 1.0]), st.floats(0.5, 2)
)
batches_of_values = st.lists(st.lists(values, min_size=1, max_size=20), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(batches_of_values, st.randoms(use_true_random=False))
def test_a_histogram_is_the_same_for_any_order_and_equals_counting_all_values_by_hand(
    batches: list[list[float]], rng: random.Random
) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    forward = histogram(*tensors)
    rng.shuffle(tensors)
    for other in (histogram(*tensors), histogram(torch.cat(tensors))):
        assert other.bound == forward.bound
        assert (other.low, other.high) == (forward.low, forward.high)
        assert torch.equal(other.counts, forward.counts)
    by_hand = histogram_of(torch.cat(tensors), bound=forward.bound, bins=Histogram.BINS)
    assert forward.counts.tolist() == by_hand


def test_a_bound_doubles_exactly_when_a_value_reaches_it() -> None:
    assert histogram(torch.tensor([1.0 - 2**-24])).bound == 1.0
    assert histogram(torch.tensor([-1.0])).bound == 1.0  # the lower end belongs to the first bin
    assert histogram(torch.tensor([1.0])).bound == 2.0


def test_a_support_has_all_the_mass_within_the_exact_extremes() -> None:
    x = skewed(1000)
    support = histogram(x).support()
    assert support.counts_RM.sum() == 1000
    assert (float(support.low_R), float(support.high_R)) == (float(x.min()), float(x.max()))
    assert support.values_RM.min() >= x.min()
    assert support.values_RM.max() <= x.max()
    assert (support.values_RM.diff(dim=1) > 0).all()


def test_more_values_than_float32_counts_are_counted_exactly() -> None:
    count = 2**24 + 3  # float32 stops at 2^24
    assert float(histogram(torch.zeros(1).expand(count)).counts.sum()) == count


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        histogram(torch.tensor([1.0, bad]))
