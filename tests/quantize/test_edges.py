"""Room at the edges, against the same quantizer without it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.core.summary import of_bits
from cq.engine.int8 import Int8
from cq.engine.kernels import weight_bits
from cq.evaluate.efficiency import call_macs, counted_cost
from cq.quantize.edges import WideEdges
from cq.quantize.layers import QuantLayer, QuantWeight
from tests.quantize.trajectories import CACHED, PTQ_8, TinyRuns

GIVEN: dict[str, Any] = {field.name: getattr(PTQ_8, field.name) for field in fields(PTQ_8)}
WIDE = WideEdges(**GIVEN, edge_input_bits=12, edge_input_range=2.0, last_weight_bits=12)
EDGES = ("conv_in", "conv_out")


@pytest.fixture(scope="module")
def wide(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(WIDE)


def of(params: QuantParams, name: str) -> Mapping[str, Any]:
    return next(row for row in params.coverage if row["name"] == name)


def test_inputs_of_both_edges_have_a_finer_grid_over_twice_the_range(
    runs: TinyRuns, params: QuantParams, wide: QuantParams
) -> None:
    for name in EDGES:
        key = f"{name}.input0"
        assert (params.bits[key], wide.bits[key]) == (8, 12)
        (scale, zero_point), (narrow, below) = (
            (each.tensors[f"{key}/scale"].double(), each.tensors[f"{key}/zero_point"]) for each in (wide, params)
        )
        assert_close(scale * 4095, 2 * 255 * narrow, rtol=1e-6, atol=0)
        assert (scale * zero_point - 2 * narrow * below).abs().max() <= narrow.max()  # both round their zero point
        assert set(zero_point.tolist()) != set(below.tolist())


def test_all_else_is_as_without_room(params: QuantParams, wide: QuantParams) -> None:
    changed = {"conv_in.input0", "conv_out.input0", "conv_out.weight0"}
    assert params.tensors.keys() == wide.tensors.keys()
    differing = {key for key, value in params.tensors.items() if not torch.equal(value, wide.tensors[key])}
    assert {key.partition("/")[0] for key in differing} == changed
    assert {key for key, bits in params.bits.items() if bits != wide.bits[key]} == changed
    assert [(of(wide, name)["weight_bits"], of(wide, name)["act_bits"]) for name in EDGES] == [(8, 12), (12, 12)]


def test_room_of_nothing_is_the_plain_quantizer(runs: TinyRuns, params: QuantParams) -> None:
    none = WideEdges(**GIVEN, edge_input_bits=8, edge_input_range=1.0, last_weight_bits=8)
    assert runs.calibrated(none).digest == params.digest


def test_what_calibration_has_not_seen_is_not_clipped(runs: TinyRuns, params: QuantParams, wide: QuantParams) -> None:
    x = 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))  # beyond what calibration saw
    found = []
    for denoiser in (runs.model.denoiser, runs.twin(params), runs.twin(wide)):
        with denoiser.call_index.at(0):
            found.append(cast(Any, denoiser.network.backbone).conv_in(x))
    plain, narrow, far = found
    assert (far - plain).norm() < 0.5 * (narrow - plain).norm()


def test_operations_are_counted_with_their_bits(runs: TinyRuns, params: QuantParams, wide: QuantParams) -> None:
    network, shape = runs.model.denoiser.network, runs.model.component.latent_shape
    cond = cast(Tensor, runs.model.condition(torch.tensor([0])))[-1:]
    sites = runs.model.denoiser.sites
    cost, more = (
        counted_cost(
            network, latent_shape=shape, cond=cond, schedule=CACHED, sites=sites, coverage=each.coverage
        )
        for each in (params, wide)
    )  # fmt: skip
    macs, _ = call_macs(network, latent_shape=shape, cond=cond, sites=sites)
    extra = macs["conv_in"] * (8 * 12 - 8 * 8) + macs["conv_out"] * (12 * 12 - 8 * 8)
    assert more["bops_mean"] - cost["bops_mean"] == extra
    assert more["weight_bytes"] - cost["weight_bytes"] == network.backbone.conv_out.weight.numel() * (12 - 8) / 8


@pytest.mark.skipif(weight_bits() < 8, reason="products of 8 bits saturate on this processor")
def test_the_integer_engine_computes_them_as_they_are_simulated_and_says_so(runs: TinyRuns, wide: QuantParams) -> None:
    acceleration = Acceleration(schedule=CACHED, params=wide)
    denoiser = runs.model.denoiser
    reasons = {layer.name: layer.reason for layer in Int8().coverage(denoiser, acceleration)}
    assert {reasons[name] for name in EDGES} == {"activations of 12 bits"}
    assert "2 have more than 8 bits, which no engine multiplies" in "\n".join(of_bits(wide))
    lowered = cast(Any, Int8().lower(denoiser, acceleration)).network.backbone
    twin = cast(Any, runs.twin(wide)).network.backbone
    for name in EDGES:
        layer = lowered.get_submodule(name)
        assert isinstance(layer, QuantLayer)
        assert torch.equal(cast(QuantWeight, layer.weights[0]).value, twin.get_submodule(name).weights[0].value)
    assert "more than" not in "\n".join(of_bits(QuantParams(tensors={}, bits=wide.bits, coverage=wide.coverage[1:2])))


@pytest.mark.parametrize(("key", "value"), [("edge_input_bits", 17), ("last_weight_bits", 1)])
def test_impossible_widths_are_refused(key: str, value: int) -> None:
    given = {"edge_input_bits": 12, "edge_input_range": 2.0, "last_weight_bits": 12, key: value}
    with pytest.raises(ValueError, match=rf"quantize\.{key}={value}"):
        WideEdges(**GIVEN, **cast(Any, given))
