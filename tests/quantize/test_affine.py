"""The quantizer against exhaustive search over its levels, and one rounding everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cq.quantize.affine import MAX_BITS, choose_qparams, dequantize, fake_quantize, quantize, round_to_grid
from cq.quantize.layers import QuantWeight
from tests.oracles.quantization import distance_to_nearest_level

FLOAT32 = 2.0**-23  # relative distance of neighbouring floats


class Grid:
    """Parameters for low..high with values of all kinds: spread over the range, on ties between levels, far outside."""

    def __init__(self, low: float, high: float, bits: int, *, seed: int = 0) -> None:
        self.bits = bits
        self.scale, self.zero_point = choose_qparams(torch.tensor(low), torch.tensor(high), bits)
        generator = torch.Generator().manual_seed(seed)
        inside = torch.rand(200, generator=generator) * (high - low) + low
        codes = torch.randint(2**bits - 1, (50,), generator=generator)
        ties = (codes - self.zero_point + 0.5) * self.scale
        self.inside = torch.cat([inside, torch.tensor([low, high])])
        self.values = torch.cat([self.inside, ties, torch.tensor([0.0, 3 * low - 1, 3 * high + 1, -1e6, 1e6])])

    def fake(self, x: Tensor) -> Tensor:
        return fake_quantize(x, float(self.scale), int(self.zero_point), self.bits)

    def rounding(self, x: Tensor) -> Tensor:
        """What float32 may add to a distance: an ulp of the value in units of the scale, and one of the level."""
        allowed: Tensor = 2 * FLOAT32 * (x.abs() + 2**self.bits * self.scale)
        return allowed


bits_up_to_16 = st.integers(2, MAX_BITS)
ends = st.floats(-100, 100, width=32, allow_subnormal=False)


@st.composite
def grids(draw: st.DrawFn, bits: st.SearchStrategy[int] = bits_up_to_16) -> Grid:
    low, high = sorted((draw(ends), draw(ends)))
    return Grid(low, high, draw(bits), seed=draw(st.integers(0, 1000)))


@settings(max_examples=50, deadline=None)
@given(grids(st.integers(2, 10)))
def test_every_value_goes_to_a_nearest_of_all_levels(grid: Grid) -> None:
    x = grid.values
    nearest = distance_to_nearest_level(x, scale=float(grid.scale), zero_point=int(grid.zero_point), bits=grid.bits)
    assert (((grid.fake(x) - x).abs() - nearest).abs() <= grid.rounding(x)).all()


@settings(max_examples=100, deadline=None)
@given(grids())
def test_fused_float_and_integer_paths_agree_bit_for_bit(grid: Grid) -> None:
    x, scale, zero_point, bits = grid.values, grid.scale, grid.zero_point, grid.bits
    codes = quantize(x, scale, zero_point, bits)
    assert codes.min() >= 0
    assert codes.max() <= 2**bits - 1
    expected = dequantize(codes, scale, zero_point)
    assert torch.equal(grid.fake(x), expected)
    assert torch.equal(round_to_grid(x, scale, zero_point, bits), expected)


@settings(max_examples=50, deadline=None)
@given(grids())
def test_quantizing_twice_changes_nothing(grid: Grid) -> None:
    once = grid.fake(grid.values)
    assert torch.equal(grid.fake(once), once)


@settings(max_examples=50, deadline=None)
@given(grids())
def test_quantization_keeps_the_order(grid: Grid) -> None:
    assert (grid.fake(grid.values.sort().values).diff() >= 0).all()


@settings(max_examples=50, deadline=None)
@given(grids())
def test_zero_stays_zero_and_zero_points_are_codes(grid: Grid) -> None:
    assert grid.fake(torch.zeros(1)) == 0.0
    assert grid.zero_point.dtype == torch.int32
    assert 0 <= int(grid.zero_point) <= 2**grid.bits - 1


@settings(max_examples=50, deadline=None)
@given(grids())
def test_inside_the_range_the_error_is_at_most_half_a_scale(grid: Grid) -> None:
    x = grid.inside
    assert ((grid.fake(x) - x).abs() <= 0.5 * grid.scale + grid.rounding(x)).all()


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.2), (-3.0, -2.0), (0.0, 5.0), (-5.0, 0.0)])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_one_signed_data_have_their_zero_point_at_an_end_of_the_code_range(low: float, high: float, bits: int) -> None:
    """The release puts it at -1282 for [1.0, 1.2] at 8 bits, which no integer kernel can represent."""
    _, zero_point = choose_qparams(torch.tensor(low), torch.tensor(high), bits)
    assert int(zero_point) == (0 if low >= 0 else 2**bits - 1)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-20, 1e6])
def test_a_constant_comes_back_finite_and_nearly_itself(value: float) -> None:
    grid = Grid(value, value, 8)
    fake = grid.fake(torch.full((3,), value))
    assert_close(fake, torch.full((3,), value), rtol=1e-6, atol=1e-12)  # a few ulp of 255 * scale; the smallest scale


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_weights_per_channel_equal_a_loop_over_channels(bits: int) -> None:
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1.0, 1e-3, 50.0, 0.0, 1.0]).view(5, 1, 1, 1)
    weight[4].abs_()
    rows = weight.flatten(1)
    scale, zero_point = choose_qparams(rows.amin(1), rows.amax(1), bits)
    whole = QuantWeight(weight, bits, scale=scale, zero_point=zero_point).value
    for channel in range(5):
        grid = Grid(float(rows[channel].min()), float(rows[channel].max()), bits)
        assert torch.equal(whole[channel], grid.fake(weight[channel]))
    assert torch.equal(whole[3], torch.zeros(4, 3, 3))
