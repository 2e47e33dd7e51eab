"""The integer engine against its simulation."""

import pytest
import torch

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.engine import int8, integer
from cq.engine.int8 import Int8
from cq.engine.kernels import HELD_BITS, Product, missing, weight_bits
from cq.engine.simulate import Simulate
from tests.quantize.trajectories import TinyRuns


def test_this_torch_has_the_operators_as_they_are_called() -> None:
    assert not missing(), missing()
    assert weight_bits() in (7, 8)


@pytest.mark.skipif(weight_bits() < 8, reason="products of 8 bits saturate on this processor")
def test_images_are_those_of_the_simulation(
    runs: TinyRuns, params: QuantParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "SMALLEST", 0)
    acceleration = Acceleration(schedule=runs.schedule, params=params)
    executed, simulated = (
        runs.latents(engine.lower(runs.model.denoiser, acceleration)) for engine in (Int8(), Simulate())
    )
    assert Int8().real(acceleration)
    assert not torch.equal(executed, simulated), "nothing was executed"
    assert (executed - simulated).norm() < 0.05 * simulated.norm()


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_weights_on_symmetric_grids_are_multiplied_without_a_correction(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (16, 32))
    codes[0, :2] = torch.tensor([0, 2**bits - 1])
    half = torch.full((16,), 2 ** (bits - 1))
    exact_bits = min(weight_bits(), HELD_BITS)
    product = Product(codes, half, bits, None, exact_bits=exact_bits)
    assert (product.shift_O is None) == (bits <= exact_bits)
    assert Product(codes, half - 3, bits, None, exact_bits=exact_bits).shift_O is not None or bits < exact_bits
    if bits <= exact_bits:
        x = torch.randint(0, 256, (4, 32))
        exact = x.double() @ (codes - half[:, None]).double().T
        assert torch.equal(product(x.to(torch.uint8), 1.0, 0, torch.ones(16), None).double(), exact)


def test_what_another_machine_calibrated_with_more_bits_runs_in_float_and_says_so(
    runs: TinyRuns, params: QuantParams, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "weight_bits", lambda: 7)
    acceleration = Acceleration(schedule=runs.schedule, params=params)
    executed, simulated = (
        runs.latents(engine.lower(runs.model.denoiser, acceleration)) for engine in (Int8(), Simulate())
    )
    assert not Int8().real(acceleration), "nothing is executed"
    assert "weights of more bits than the 7" in caplog.text
    assert "budget.weight_bits=7" in caplog.text
    assert (executed - simulated).norm() < 0.05 * simulated.norm()
