"""Scales that are found as values come, against a grid for each row made by hand, and executed against simulated."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.engine import integer
from cq.engine.int8 import Int8
from cq.engine.integer import IntegerLayer
from cq.engine.kernels import weight_bits
from cq.quantize.affine import choose_qparams, fake_quantize
from cq.quantize.layers import DynamicQuantizer
from cq.quantize.observers import Dynamic, MinMax
from tests.quantize.trajectories import CACHED, PTQ_8, TinyRuns

DYNAMIC = replace(PTQ_8, act_observer=Dynamic(linear="token", conv="image", base=MinMax()))


@pytest.fixture(scope="module")
def dynamic(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(DYNAMIC)


def drawn(*shape: int) -> Tensor:
    """Rows of very different range, one-sided ones among them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * torch.rand(*shape[:-1], 1, generator=generator).mul(8).exp()
    return torch.where(torch.rand(shape, generator=generator) < 0.2, x.abs(), x)


@pytest.mark.parametrize(("of", "shape"), [("token", (2, 5, 16)), ("token", (3, 8)), ("image", (3, 4, 6, 6))])
def test_every_token_or_image_has_the_grid_that_just_covers_it(of: str, shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    found = DynamicQuantizer(8, of=of)(x)
    for row, rounded in zip(*(each.reshape(-1, *shape[-1:] if of == "token" else shape[1:]) for each in (x, found)),
                            strict=True):  # fmt: skip
        scale, zero_point = choose_qparams(row.amin(), row.amax(), 8)
        assert torch.equal(rounded, fake_quantize(row, float(scale), int(zero_point), 8))
    assert torch.equal(DynamicQuantizer(8, of=of)(x[:1]), found[:1]), "an image depends on its batch"


def test_rounding_passes_gradients_on() -> None:
    x = drawn(2, 5, 16).requires_grad_()
    DynamicQuantizer(8, of="token")(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_layers_have_no_scales_and_say_so_and_attention_and_weights_are_as_before(
    params: QuantParams, dynamic: QuantParams
) -> None:
    assert {key for key in params.tensors if ".input" not in key} == dynamic.tensors.keys()
    assert all(torch.equal(value, params.tensors[key]) for key, value in dynamic.tensors.items())
    assert dynamic.bits == params.bits
    kinds = {(row["kind"], row.get("dynamic", "")) for row in dynamic.coverage}
    assert kinds == {("conv", "image"), ("linear", "token"), ("attention", "")}


def test_a_kind_of_layer_can_stay_static(runs: TinyRuns, params: QuantParams) -> None:
    static = replace(PTQ_8, act_observer=Dynamic(linear="static", conv="static", base=MinMax()))
    assert runs.calibrated(static).digest == params.digest


@pytest.mark.skipif(weight_bits() < 8, reason="products of 8 bits saturate on this processor")
def test_the_integer_engine_multiplies_rows_as_they_are_simulated(
    runs: TinyRuns, dynamic: QuantParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer by layer, on inputs of its own; a split convolution, a bias and a GELU among them."""
    monkeypatch.setattr(integer, "SMALLEST", 0)
    twin = runs.twin(dynamic)
    lowered = cast(Any, Int8().lower(runs.model.denoiser, Acceleration(schedule=CACHED, params=dynamic)))
    compared = 0
    for name, layer in lowered.network.backbone.named_modules():
        if isinstance(layer, IntegerLayer):
            plain = runs.model.denoiser.network.backbone.get_submodule(name)
            is_conv = isinstance(plain, nn.Conv2d)
            x = drawn(2, plain.in_channels, 8, 8) if is_conv else drawn(2, 5, cast(int, plain.in_features))
            with twin.call_index.at(0), lowered.call_index.at(0), torch.no_grad():
                expected, found = cast(Any, twin.network.backbone.get_submodule(name))(x), layer(x)
            assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
            compared += 1
    assert compared > 20
