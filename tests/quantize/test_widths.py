"""Widths by sensitivity, against all widths there are."""

import random
from itertools import product
from typing import Any

import pytest
import torch

from cq.core.acceleration import Acceleration
from cq.core.denoise import Trajectory
from cq.core.seeding import initial_noise
from cq.quantize.observers import MinMax
from cq.quantize.widths import FALL, MEASURED_BITS, asked_along, sensitivities, widths_within
from tests.quantize.trajectories import CALLS, EVERY, TinyRuns


@pytest.mark.parametrize("seed", range(20))
def test_no_other_widths_of_that_cost_change_less(seed: int) -> None:
    draw = random.Random(seed)
    change = {name: draw.uniform(0, 1) for name in "abcd"}
    macs = {name: draw.randint(1, 9) for name in "abcd"}
    mean = draw.uniform(2, 6)
    found = widths_within(change, macs, mean_bits=mean, highest=6)

    def cost(bits: dict[str, int]) -> int:
        return sum(macs[name] * bits[name] for name in bits)

    def error(bits: dict[str, int]) -> float:
        return sum(change[name] * FALL ** (MEASURED_BITS - bits[name]) for name in bits)

    assert cost(found) <= mean * sum(macs.values())
    every = [dict(zip("abcd", bits, strict=True)) for bits in product(range(2, 7), repeat=4)]
    assert error(found) <= min(error(bits) for bits in every if cost(bits) <= cost(found)) * (1 + 1e-12)


def test_a_layer_that_nothing_reads_needs_no_bits_and_one_that_all_hangs_on_has_most() -> None:
    assert widths_within({"a": 0.0, "b": 1.0}, {"a": 1, "b": 1}, mean_bits=5) == {"a": 2, "b": 8}
    assert set(widths_within({"a": 0.5, "b": 0.5}, {"a": 1, "b": 1}, mean_bits=8).values()) == {8}
    with pytest.raises(ValueError, match="mean_bits=1: less than lowest=2"):
        widths_within({"a": 0.0}, {"a": 1}, mean_bits=1)


def test_what_is_measured_is_one_layer_rounded_alone(runs: TinyRuns) -> None:
    denoiser = runs.model.denoiser
    cond = runs.model.condition(torch.tensor([0, 1]))
    start = Trajectory(
        denoiser, runs.model.noise_scheduler(CALLS), initial_noise((0, 1), runs.model.component.latent_shape),
        cond=cond, acceleration=Acceleration(schedule=EVERY),
    )  # fmt: skip
    asked = asked_along(start, cond, {0, 3})
    assert [call for _, call, _, _ in asked] == [0, 3]
    *_, last = runs.steps(denoiser, (0, 1), deployed=False)
    assert torch.equal(start.x_NCHW, last.x_NCHW)
    before = {name: value.clone() for name, value in denoiser.network.backbone.state_dict().items()}
    found = sensitivities(denoiser, asked[:1], MinMax())
    assert all(torch.equal(value, before[name]) for name, value in denoiser.network.backbone.state_dict().items())
    assert not {"conv_in", "conv_out"} & found.keys()
    assert all(0 < value < 1 for name, value in found.items() if "resnets" in name and "conv1" in name)
    name = next(name for name in found if name.endswith("conv1"))
    layer: Any = denoiser.network.backbone.get_submodule(name)
    whole_weight = layer.weight.detach().clone()
    rows = whole_weight.flatten(1)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    scale = (high - low) / 15
    zero = (-low / scale).round()
    codes = ((rows / scale[:, None]).round() + zero[:, None]).clamp(0, 15)
    x_NCHW, call, timestep, cond = asked[0]
    ask: dict[str, Any] = {"call": call, "timestep": timestep, "cond": cond, "reuse": {}}
    with torch.no_grad():
        full = denoiser(x_NCHW, **ask).eps_NCHW
        layer.weight.copy_(((codes - zero[:, None]) * scale[:, None]).view_as(whole_weight))
        ours = denoiser(x_NCHW, **ask).eps_NCHW
        layer.weight.copy_(whole_weight)
    by_hand = float((ours - full).double().square().sum() / full.double().square().sum())
    assert found[name] == pytest.approx(by_hand, rel=1e-3)
