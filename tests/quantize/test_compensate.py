"""Compensated rounding against elimination by hand, and its moments against the layer itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.quantize import compensate
from cq.quantize.affine import choose_qparams, dequantize, over_weight, quantize
from cq.quantize.compensate import Moments, by_group, compensated_codes, damped, samples, target

LAYERS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(12, 6), (3, 5, 12)),
    "one row each": (lambda: nn.Linear(12, 6), (3, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 5, 6)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=(1, 2)), (3, 4, 5, 6)),
    "dilated to the same size": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=2, padding="same"), (3, 4, 5, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (3, 4, 5, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (3, 4, 5, 6)),
}


def case(name: str) -> tuple[Any, Tensor, Tensor]:
    """A layer, its inputs, and those that they stand for."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    x = torch.randn(shape)
    return make().requires_grad_(False), x, x + 0.1 * torch.randn(shape)


def grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Of each weight of [G, O, D]."""
    scale, zero_point = choose_qparams(weight.amin(-1), weight.amax(-1), bits)
    return scale[..., None].expand_as(weight), zero_point[..., None].expand_as(weight)


def correlated(columns: int, groups: int = 1) -> Tensor:
    """Second moments of inputs that depend on each other; one input is always zero."""
    x = torch.randn(groups, 3 * columns, columns, dtype=torch.float64)
    x = x @ (torch.eye(columns) + 0.3 * torch.randn(columns, columns)).double() * torch.rand(columns).double()
    x[:, :, 2] = 0
    return damped(x.mT @ x, 0.01)


@pytest.mark.parametrize("name", LAYERS)
def test_samples_times_weights_are_the_output(name: str) -> None:
    layer, x, _ = case(name)
    layer.bias.zero_()
    out = layer(x)
    found = samples(layer, x) @ by_group(layer, layer.weight).mT  # [G, S, O]
    whole = out.movedim(1, -1) if isinstance(layer, nn.Conv2d) else out
    assert_close(found.permute(1, 0, 2).reshape(whole.shape), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_error_is_that_of_the_layers_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the weights, and however many pieces the inputs come in."""
    layer, x, x0 = case(name)
    found = []
    for chunk in (2**24, 1):
        monkeypatch.setattr(compensate, "CHUNK", chunk)
        moments = Moments(layer=layer)
        moments.add(x[:2], x0[:2])
        moments.add(x[2:], x0[2:])
        wanted = layer(x0)
        other = layer.weight + 0.05 * torch.randn_like(layer.weight)
        found.append(moments.error(by_group(layer, other).double()))
        layer.weight.data, kept = other, layer.weight.data
        assert found[-1] == pytest.approx(float((layer(x) - wanted).square().mean()), rel=1e-3)
        layer.weight.data = kept


def test_the_target_is_the_least_squares_solution() -> None:
    layer = nn.Linear(12, 6)
    x = torch.randn(200, 12)
    x0 = x + 0.3 * torch.randn(200, 12)
    moments = Moments(layer=layer)
    moments.add(x, x0)
    weight = layer.weight.detach()
    best = torch.linalg.lstsq(x, x0 @ weight.T).solution.T
    assert_close(target(weight[None].double(), moments, 1e-9)[0].float(), best, rtol=1e-3, atol=1e-4)
    near = target(weight[None].double(), moments, 0.05)[0]
    assert moments.error(best[None].double()) < moments.error(near[None]) < moments.error(weight[None].double())


def eliminated(weight: Tensor, gram: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """One group by hand: after each column its share of the inverse is taken out; nothing is ordered or in blocks."""
    weight, inverse = weight.clone(), torch.linalg.inv(gram)
    codes = torch.zeros(weight.shape, dtype=torch.int32)
    left = list(range(weight.shape[1]))
    while left:
        at = max(left, key=lambda column: float(gram[column, column]))
        left.remove(at)
        codes[:, at] = quantize(weight[:, at], scale[:, at], zero_point[:, at], bits)
        lost = weight[:, at] - dequantize(codes[:, at], scale[:, at], zero_point[:, at])
        for column in left:
            weight[:, column] -= lost * inverse[at, column] / inverse[at, at]
        inverse = inverse - inverse[:, at, None] * inverse[None, at] / inverse[at, at]
    return codes


@pytest.mark.parametrize(("columns", "groups", "bits"), [(9, 3, 4), (70, 1, 3)])
def test_codes_are_those_of_elimination_by_hand(columns: int, groups: int, bits: int) -> None:
    torch.manual_seed(1)
    gram = correlated(columns, groups)
    weight = torch.randn(groups, 5, columns, dtype=torch.float64)
    scale, zero_point = grid(weight, bits)
    found = compensated_codes(weight, gram, scale_GOD=scale, zero_point_GOD=zero_point, bits=bits)
    for group in range(groups):
        by_hand = eliminated(weight[group], gram[group], scale[group], zero_point[group], bits)
        assert torch.equal(found[group], by_hand)
    nearest = quantize(weight, scale, zero_point, bits)
    lost, at_first = (weight - dequantize(codes, scale, zero_point) for codes in (found, nearest))
    of_group = [((each @ gram) * each).sum((1, 2)) for each in (lost, at_first)]
    assert (of_group[0] < 0.8 * of_group[1]).all()


def test_inputs_that_are_always_zero_leave_nearest_rounding() -> None:
    weight = torch.randn(1, 5, 9, dtype=torch.float64)
    scale, zero_point = grid(weight, 4)
    moments = Moments(layer=nn.Linear(9, 5))
    moments.add(torch.zeros(4, 9), torch.zeros(4, 9))
    same = target(weight, moments, 0.05)
    assert torch.equal(same, weight)
    gram = damped(moments.gram_GDD, 0.01)
    found = compensated_codes(same, gram, scale_GOD=scale, zero_point_GOD=zero_point, bits=4)
    assert torch.equal(found, quantize(weight, scale, zero_point, 4))


def test_every_weight_gets_the_grid_of_its_channel() -> None:
    scale, weight = torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 1, 1)
    assert over_weight(scale, weight).expand_as(weight).flatten(1).tolist() == [[1.0] * 3, [2.0] * 3]
