"""Activation quantizers for rows of many calls: the deployed ones bit for bit, with gradients."""

import pytest
import torch
from torch.testing import assert_close

from cq.quantize.affine import choose_qparams, fake_quantize
from cq.quantize.learnable import RowCalls, RowQuantizer

CALLS = 5


def row_quantizer(bits: int, calls: RowCalls, *, per_call: bool = True) -> RowQuantizer:
    """Ranges that grow with the call, or one for all."""
    size = torch.arange(1.0, CALLS + 1) if per_call else torch.tensor([2.0])
    scale, zero_point = choose_qparams(-0.3 * size, size, bits)
    return RowQuantizer(bits, scale=scale, zero_point=zero_point, calls=calls)


@pytest.mark.parametrize("per_call", [True, False])
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 4), (2, 6)])
def test_every_row_is_quantized_as_its_own_call_is_deployed(bits: int, per_call: bool, shape: tuple[int, ...]) -> None:
    calls = RowCalls()
    quantizer = row_quantizer(bits, calls, per_call=per_call)
    x, calls_R = torch.randn(6, *shape) * 2, torch.tensor([0, 4, 4, 1, 3, 0])
    with calls.at(calls_R):
        with_gradients = quantizer(x)
        with torch.no_grad():
            without = quantizer(x)
    assert torch.equal(with_gradients, without)
    for row, call in enumerate(calls_R.tolist()):
        index = call if per_call else 0
        scale, zero_point = float(quantizer.scale[index]), int(quantizer.zero_point[index])
        assert torch.equal(without[row], fake_quantize(x[row], scale, zero_point, bits))


def test_outside_of_a_block_no_rows_are_running() -> None:
    calls = RowCalls()
    with pytest.raises(RuntimeError, match="no rows are running"):
        row_quantizer(8, calls)(torch.randn(2, 3))
    with pytest.raises(ZeroDivisionError), calls.at(torch.tensor([0])):
        _ = 1 // 0
    with pytest.raises(RuntimeError, match="no rows are running"):
        _ = calls.value


def test_gradients_pass_rounding_and_stop_at_the_clamp() -> None:
    calls = RowCalls()
    quantizer = row_quantizer(4, calls, per_call=False)
    x = torch.linspace(-3, 5, 200)[None].requires_grad_()
    with calls.at(torch.tensor([0])):
        quantizer(x).sum().backward()
    assert x.grad is not None
    scale, zero_point = float(quantizer.scale[0]), int(quantizer.zero_point[0])
    codes = (x.detach() / scale).round() + zero_point
    assert torch.equal(x.grad, ((codes >= 0) & (codes <= 15)).float())


@pytest.mark.parametrize("learned", ["shared", "per_call"])
def test_a_scales_gradient_is_that_of_lsq_and_reaches_its_own_calls_only(learned: str) -> None:
    calls = RowCalls()
    quantizer = row_quantizer(4, calls)
    quantizer.learn(learned)  # type: ignore[arg-type]
    x, calls_R = torch.randn(3, 50) * 3, torch.tensor([1, 1, 4])
    with calls.at(calls_R):
        quantizer(x).sum().backward()
    assert quantizer.log_factor is not None
    assert quantizer.log_factor.grad is not None
    expected = torch.zeros(CALLS)
    for row, call in enumerate(calls_R.tolist()):
        scale, zero_point = quantizer.scale[call], quantizer.zero_point[call]
        steps = x[row] / scale
        kept = steps.round().clamp(-zero_point, 15 - zero_point)
        expected[call] += torch.where(kept == steps.round(), kept - steps, kept).sum() * scale  # d scale / d log
    if learned == "shared":
        expected = expected.sum()[None]
    assert_close(quantizer.log_factor.grad, expected, rtol=1e-4, atol=1e-4)


def test_settling_ends_training_at_the_scales_given() -> None:
    calls = RowCalls()
    quantizer = row_quantizer(4, calls)
    quantizer.learn("per_call")
    assert torch.equal(quantizer.scales(), quantizer.scale)
    quantizer.settle(2 * quantizer.scale)
    assert quantizer.log_factor is None
    assert_close(quantizer.scales(), 2 * row_quantizer(4, calls).scale)
