"""Streaming moments equal those of all data at once."""

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cq.core.moments import PairMoments
from cq.laws.drift import drifting_maps

NAMES = ("count", "source_TC", "target_TC", "source_square_TC", "target_square_TC", "cross_TC")


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Sums of some 200 numbers in another order, or one subtraction of such."""
    assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def assert_same(left: PairMoments, right: PairMoments) -> None:
    for name in NAMES:
        assert_equal(getattr(left, name), getattr(right, name))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_batches_in_any_order_and_of_any_size_add_up_to_the_whole(seed: int, cuts: list[int]) -> None:
    source, target = drifting_maps(2, seed=seed, samples=8)
    pieces = [
        PairMoments.of(x, y)
        for x, y in zip(source.tensor_split(sorted(set(cuts))), target.tensor_split(sorted(set(cuts))), strict=True)
    ]
    random.Random(seed).shuffle(pieces)
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    assert_same(total, PairMoments.of(source, target))


def test_moments_equal_the_two_pass_formula() -> None:
    source, target = drifting_maps(2, seed=1)
    moments = PairMoments.of(source, target)
    for c in range(source.shape[1]):
        x, y = source[:, c].flatten(), target[:, c].flatten()
        n = float(moments.count)
        assert n == x.numel()
        assert_equal(moments.source_square_TC[0, c] - moments.source_TC[0, c] ** 2 / n, x.var() * (n - 1))
        assert_equal(moments.target_square_TC[0, c] - moments.target_TC[0, c] ** 2 / n, y.var() * (n - 1))
        covariance = ((x - x.mean()) * (y - y.mean())).sum()
        product_of_means = moments.source_TC[0, c] * moments.target_TC[0, c] / n
        assert_equal(moments.cross_TC[0, c] - product_of_means, covariance)


def test_stacked_rows_stay_in_order_and_add_row_by_row() -> None:
    maps = drifting_maps(4, seed=2)
    rows = [PairMoments.of(maps[t], maps[t + 1]) for t in range(3)]
    table = PairMoments.stack(rows)
    assert table.cross_TC.shape == (3, maps.shape[2])
    assert table.count.shape == (3, 1)
    for t, row in enumerate(rows):
        assert torch.equal(table.cross_TC[t], row.cross_TC[0])
    assert_same(table + table, PairMoments.stack([row + row for row in rows]))


def test_sums_are_float64_whatever_comes_in() -> None:
    source, target = drifting_maps(2, seed=3)
    half = PairMoments.of(source.half(), target.half())
    assert all(getattr(half, name).dtype == torch.float64 for name in NAMES)
    assert_same(half, PairMoments.of(source.half().double(), target.half().double()))
