"""The integer engine against its simulation."""

import pytest
import torch

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.engine import integer
from cq.engine.int8 import Int8
from cq.engine.kernels import missing, weight_bits
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
    assert not torch.equal(executed, simulated), "nothing was executed"
    assert (executed - simulated).norm() < 0.05 * simulated.norm()
