"""Learned rounding: the maths alone, and on one linear layer against every rounding there is."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.core.call import CallIndex
from cq.quantize.affine import choose_qparams, quantize, round_to_grid
from cq.quantize.layers import ActQuantizer, QuantLayer, QuantWeight
from cq.quantize.learn import Training, Workbench, learn_unit
from cq.quantize.learnable import SoftWeight
from cq.quantize.rounding import (
    alpha_for,
    beta_at,
    hard_codes,
    indecision,
    lower_codes,
    rectified_sigmoid,
    soft_codes,
)
from cq.quantize.units import UnitData

TRAINING = Training(
    iterations=300, batch_rows=64, learning_rate=0.1, learned_scales="none", scale_learning_rate=0.0,
    regulariser=30.0, beta=(20.0, 2.0), warm_up=0.2,
)  # fmt: skip


def grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Min-max scale and zero point, one row an output, [C, 1]."""
    scale, zero_point = choose_qparams(weight.amin(1), weight.amax(1), bits)
    return scale[:, None], zero_point[:, None]


def test_h_is_the_fraction_that_alpha_was_made_for() -> None:
    fraction = torch.linspace(0, 1, 1001)
    assert_close(rectified_sigmoid(alpha_for(fraction)), fraction, rtol=0, atol=1e-6)


def test_h_reaches_zero_and_one_at_finite_alpha_and_is_half_at_zero() -> None:
    h = rectified_sigmoid(torch.tensor([-3.0, 0.0, 3.0]))
    assert h[0] == 0
    assert h[2] == 1
    assert_close(h[1], torch.tensor(0.5))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_soft_weight_starts_as_the_float_weight(bits: int) -> None:
    weight = torch.randn(6, 50)
    scale, zero_point = grid(weight, bits)
    value = SoftWeight(weight, bits, scale=scale[:, 0], zero_point=zero_point[:, 0]).value
    # the grid's ends are rounded to whole codes: up to half a step of the extreme weights lies outside of it
    inside = (weight > -zero_point * scale) & (weight < (2**bits - 1 - zero_point) * scale)
    assert inside.float().mean() > 0.9
    assert_close(value[inside], weight[inside], rtol=1e-5, atol=1e-5)


def test_a_soft_weight_is_clamped_where_the_grid_ends() -> None:
    weight = torch.tensor([[-2.0, 0.1, 3.0]])
    soft = SoftWeight(weight, 2, scale=torch.tensor([0.5]), zero_point=torch.tensor([1], dtype=torch.int32))
    assert_close(soft.value, torch.tensor([[-0.5, 0.1, 1.0]]))


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_the_rounding_it_starts_with_is_the_nearest(bits: int) -> None:
    weight = torch.randn(6, 500)
    scale, zero_point = grid(weight, bits)
    lower, fraction = lower_codes(weight, scale, zero_point)
    decided = (fraction - 0.5).abs() > 1e-5  # a tie may go either way
    found = hard_codes(lower, alpha_for(fraction), bits)
    assert found.dtype == (torch.uint8 if bits <= 8 else torch.int32)
    assert torch.equal(found.int()[decided], quantize(weight, scale, zero_point, bits)[decided])


def test_hardening_is_the_rule_of_signs() -> None:
    lower, alpha = torch.randint(-1, 16, (1000,)).float(), torch.randn(1000)
    up = rectified_sigmoid(alpha) >= 0.5
    assert torch.equal(hard_codes(lower, alpha, 4).float(), (lower + up).clamp(0, 15))
    decided = 10 * alpha.sign()
    assert torch.equal(hard_codes(lower, alpha, 4).float(), soft_codes(lower, decided, 4))


@pytest.mark.parametrize("beta", [20.0, 6.0, 2.0])
def test_the_regulariser_pulls_every_weight_to_the_nearer_end(beta: float) -> None:
    alpha = torch.linspace(-2, 2, 40, requires_grad=True)
    (gradient,) = torch.autograd.grad(indecision(alpha, beta), alpha)
    assert ((-gradient).sign() == alpha.sign())[gradient != 0].all()
    assert (gradient != 0).float().mean() > 0.5
    assert indecision(torch.tensor([-9.0, 9.0]), beta) == 0
    assert_close(indecision(torch.zeros(3), beta), torch.tensor(1.0))


def test_a_large_exponent_leaves_the_undecided_alone() -> None:
    alpha = torch.tensor([0.1], requires_grad=True)
    steep, flat = (torch.autograd.grad(indecision(alpha, beta), alpha)[0].abs() for beta in (2.0, 20.0))
    assert flat < 1e-6 * steep


def test_the_exponent_waits_and_then_falls_on_a_straight_line() -> None:
    assert [beta_at(progress, (20.0, 2.0), 0.2) for progress in (0.0, 0.19)] == [None, None]
    values = [beta_at(progress, (20.0, 2.0), 0.2) for progress in (0.2, 0.6, 1.0)]
    assert_close(torch.tensor(values), torch.tensor([20.0, 11.0, 2.0]))


class Backbone(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def bench_of(linear: nn.Linear, bits: int) -> Workbench:
    """The layer beside its quantized twin, whose activations have 16 bits."""
    weight = linear.weight.detach()
    scale, zero_point = grid(weight, bits)
    of_input = choose_qparams(torch.tensor([-6.0]), torch.tensor([6.0]), 16)
    tensors = {
        "layer.weight0/scale": scale[:, 0], "layer.weight0/zero_point": zero_point[:, 0],
        "layer.input0/scale": of_input[0], "layer.input0/zero_point": of_input[1],
    }  # fmt: skip
    index = CallIndex()
    quantizer = ActQuantizer.stored(16, tensors, "layer.input0", call_index=index)
    rounded = QuantWeight(weight, bits, scale=scale[:, 0], zero_point=zero_point[:, 0])
    layer = QuantLayer(linear, split=0, weights=[rounded], quantizers=[quantizer], call_index=index)
    return Workbench.of(Backbone(layer), Backbone(linear), tensors)


def correlated_rows(features: int, count: int = 256) -> Tensor:
    """Inputs that share a mean and a few directions, as activations do: rounding errors can make up for each other."""
    return torch.randn(count, features) * 0.3 + torch.randn(count, 2) @ torch.randn(2, features) * 0.5 + 0.7


def data_of(linear: nn.Linear, x: Tensor) -> UnitData:
    target = linear(x).detach()
    return UnitData(inputs={"x": x}, constants={}, target=target, calls_R=torch.zeros(len(x), dtype=torch.int64))


def error_of_every_rounding(bench: Workbench, data: UnitData, bits: int) -> list[float]:
    """2^n errors, in no particular order."""
    (_, layer, _, weight), *_ = bench.weights("layer")
    scale, zero_point = bench.tensors["layer.weight0/scale"], bench.tensors["layer.weight0/zero_point"]
    lower, _ = lower_codes(weight, scale[:, None], zero_point[:, None])
    errors = []
    for up in product((0.0, 1.0), repeat=weight.numel()):
        codes = (lower + torch.tensor(up).view_as(lower)).clamp(0, 2**bits - 1).int()
        layer.weights[0] = QuantWeight(weight, bits, scale=scale, zero_point=zero_point, codes=codes)
        errors.append(bench.error("layer", data, 256))
    bench.install("layer", {})
    return errors


@pytest.mark.parametrize("seed", range(5))
def test_on_a_small_layer_learned_rounding_is_near_the_best_of_all(seed: int) -> None:
    torch.manual_seed(seed)
    linear, bits = nn.Linear(8, 1), 3
    bench, data = bench_of(linear, bits), data_of(linear, correlated_rows(8))
    nearest = bench.error("layer", data, 256)
    best = min(error_of_every_rounding(bench, data, bits))
    bench.install("layer", learn_unit(bench, "layer", data, TRAINING, seed=0))
    learned = bench.error("layer", data, 256)
    assert best <= learned <= nearest
    assert nearest - learned >= 0.8 * (nearest - best)  # gradients on a relaxation find no guaranteed optimum


def test_a_wide_layer_gains_much_and_ends_decided() -> None:
    linear, bits = nn.Linear(64, 16), 3
    bench, data = bench_of(linear, bits), data_of(linear, correlated_rows(64, 512))
    nearest = bench.error("layer", data, 256)
    learned = learn_unit(bench, "layer", data, TRAINING, seed=0)
    (soft,) = (module for module in bench.quantized.modules() if isinstance(module, SoftWeight))
    h = rectified_sigmoid(soft.alpha)
    assert ((h < 0.05) | (h > 0.95)).float().mean() > 0.95
    before = bench.error("layer", data, 256)
    bench.install("layer", learned)
    after = bench.error("layer", data, 256)
    assert after < 0.5 * nearest
    assert after < 2 * before  # hardening is no jump where everything is decided


def test_without_the_regulariser_hardening_is_a_jump() -> None:
    """The defect of CacheQuant's release, whose regulariser is passed on and never used."""
    linear = nn.Linear(64, 16)
    bench, data = bench_of(linear, 3), data_of(linear, correlated_rows(64, 512))
    options: dict[str, Any] = {**vars(TRAINING), "regulariser": 0.0}
    learned = learn_unit(bench, "layer", data, Training(**options), seed=0)
    before = bench.error("layer", data, 256)
    bench.install("layer", learned)
    assert bench.error("layer", data, 256) > 3 * before


def test_installing_codes_gives_the_grid_and_installing_nothing_the_nearest() -> None:
    linear = nn.Linear(8, 3)
    bench = bench_of(linear, 4)
    (_, layer, _, weight), *_ = bench.weights("layer")
    scale, zero_point = grid(weight, 4)
    codes = torch.randint(0, 16, (3, 8), dtype=torch.uint8)
    for learned, expected in (
        ({"layer.weight0/codes": codes}, (codes.int() - zero_point) * scale),
        ({}, round_to_grid(weight, scale, zero_point, 4)),
    ):
        bench.install("layer", learned)
        installed = layer.weights[0]
        assert isinstance(installed, QuantWeight)
        assert torch.equal(installed.value, expected)
