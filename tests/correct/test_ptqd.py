"""PTQD: a known slope and bias are found again, and the correction never adds error where it was fitted."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.moments import PairMoments
from cq.correct.fit import residual_sum_of_squares
from cq.correct.ptqd import PTQD

BIAS = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)


def noise(seed: int = 0) -> Tensor:
    """A prediction [N, C, H, W] whose channels have means and spreads of their own, float64."""
    shift = torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1)
    unit = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return unit * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1) + shift


def fitted(moments: PairMoments) -> tuple[Tensor, Tensor]:
    found = PTQD().fit(moments, bias_C=None)
    assert found is not None
    return found


def by_the_paper(quantized: Tensor, target: Tensor) -> Tensor:
    """(quantized - bias) / (1 + k), step by step on the tensors themselves."""
    error = quantized - target
    design = torch.stack([target.flatten(), torch.ones(target.numel(), dtype=torch.float64)], 1)
    slope = float(torch.linalg.lstsq(design, error.flatten()[:, None]).solution[0])
    k = max(0.0, slope)
    bias_C = (error - k * target).mean((0, 2, 3))
    return (quantized - bias_C.view(1, -1, 1, 1)) / (1 + k)


def applied(quantized: Tensor, gain_TC: Tensor, offset_TC: Tensor) -> Tensor:
    return gain_TC[0].view(1, -1, 1, 1) * quantized + offset_TC[0].view(1, -1, 1, 1)


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.7])
def test_a_known_slope_and_a_uniform_bias_are_undone_exactly(slope: float) -> None:
    target = noise()
    gain, offset = fitted(PairMoments.of((1 + slope) * target + 0.3, target))
    assert_close(gain, torch.full((1, 3), 1 / (1 + slope), dtype=torch.float64))
    assert_close(offset, torch.full((1, 3), -0.3 / (1 + slope), dtype=torch.float64))


@pytest.mark.parametrize("slope", [-0.3, 0.0, 0.4])
def test_it_is_the_papers_formula(slope: float) -> None:
    """Biases that differ by channel also tilt the slope, which is fitted over all channels at once."""
    target = noise()
    rest = 0.1 * noise(seed=1)
    quantized = (1 + slope) * target + BIAS.view(1, -1, 1, 1) + rest
    corrected = applied(quantized, *fitted(PairMoments.of(quantized, target)))
    assert_close(corrected, by_the_paper(quantized, target))


def test_a_negative_slope_is_clipped_and_leaves_the_bias_alone() -> None:
    target = noise()
    quantized = 0.6 * target
    gain, offset = fitted(PairMoments.of(quantized, target))
    assert torch.equal(gain, torch.ones(1, 3, dtype=torch.float64))
    assert_close(offset[0], (target - quantized).mean((0, 2, 3)))


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_it_never_adds_error_to_the_data_it_was_fitted_to(slope: float, seed: int) -> None:
    target = noise(seed)
    moments = PairMoments.of((1 + slope) * target + BIAS.view(1, -1, 1, 1) + 0.3 * noise(seed + 10), target)
    before = residual_sum_of_squares(moments, torch.ones(1, 3), torch.zeros(1, 3)).sum()
    after = residual_sum_of_squares(moments, *fitted(moments)).sum()
    assert after < before


def test_calls_do_not_mix() -> None:
    target = noise()
    first, second = PairMoments.of(1.1 * target, target), PairMoments.of(1.4 * target + 1, target)
    gain, offset = fitted(PairMoments.stack([first, second]))
    for row, alone in enumerate((first, second)):
        assert_close((gain[row], offset[row]), tuple(table[0] for table in fitted(alone)))


def test_a_target_that_does_not_vary_gives_the_mean_difference_and_nothing_else() -> None:
    target = torch.full((2, 3, 4, 4), 0.1, dtype=torch.float64)
    gain, offset = fitted(PairMoments.of(target + BIAS.view(1, -1, 1, 1), target))
    assert torch.equal(gain, torch.ones(1, 3, dtype=torch.float64))
    assert_close(offset[0], -BIAS)
