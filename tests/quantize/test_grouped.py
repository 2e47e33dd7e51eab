"""Several weight scales an output channel, against each group of input channels by itself."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.engine.int8 import Int8
from cq.engine.integer import in_float
from cq.engine.stored_weights import StoredWeights, save_weights
from cq.evaluate.efficiency import counted_cost
from cq.models.cutting import denoiser_of
from cq.quantize.affine import over_weight, round_to_grid
from cq.quantize.edges import WideEdges
from cq.quantize.gptq import GPTQ
from cq.quantize.grouped import Grouped
from cq.quantize.layers import choose_weight_qparams
from cq.quantize.learnable import SoftWeight
from cq.quantize.observers import ErrorSearch
from cq.quantize.twin import fake_quantized
from tests.quantize.trajectories import CACHED, PTQ_8, TinyRuns

SEARCH = ErrorSearch(power=2.4, candidates=10, step=0.05)
GIVEN: dict[str, Any] = {field.name: getattr(PTQ_8, field.name) for field in fields(PTQ_8)}
GIVEN |= {"edge_input_bits": 12, "edge_input_range": 2.0, "last_weight_bits": 12, "weight_bits": 4}
GROUPED = Grouped(**GIVEN, weight_group=5)


@pytest.fixture(scope="module")
def grouped(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(GROUPED)


@pytest.mark.parametrize("shape", [(3, 16), (4, 9, 3, 3), (2, 1, 5, 5)])
@pytest.mark.parametrize("group", [1, 2, 3, 5, 7, 8, 100])
def test_every_group_has_the_grid_that_it_would_have_alone(shape: tuple[int, ...], group: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(group)) * torch.arange(1.0, 1 + shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    scale, zero_point = choose_weight_qparams(weight, 4, SEARCH, group)
    count = -(-shape[1] // group)
    assert scale.shape == zero_point.shape == (shape[0], count)
    size = -(-shape[1] // count)
    assert size <= group
    found = round_to_grid(weight, over_weight(scale, weight), over_weight(zero_point, weight), 4)
    for at in range(count):
        part = weight[:, at * size : (at + 1) * size]
        alone, zero = (over_weight(values, part) for values in choose_weight_qparams(part, 4, SEARCH))
        assert torch.equal(found[:, at * size : (at + 1) * size], round_to_grid(part, alone, zero, 4))


def test_inner_layers_alone_have_groups_and_lie_nearer(runs: TinyRuns, grouped: QuantParams) -> None:
    plain = runs.calibrated(WideEdges(**GIVEN))
    edges = runs.model.denoiser.network.edges()
    for row, before in zip(grouped.coverage, plain.coverage, strict=True):
        inner = row["kind"] != "attention" and row["name"] not in edges
        assert row == {**before, "weight_group": 5} if inner else row == before
    twins = [runs.twin(params).network.backbone for params in (plain, grouped)]

    def off(backbone: Any, row: Mapping[str, Any]) -> float:
        weight = runs.model.denoiser.network.backbone.get_submodule(row["name"]).weight
        parts: list[Tensor] = [part.value for part in backbone.get_submodule(row["name"]).weights]
        return float((torch.cat(parts, 1) - weight).square().sum())

    rows = [row for row in grouped.coverage if "weight_group" in row]
    assert len(rows) > 20
    assert sum(off(twins[1], row) for row in rows) < 0.8 * sum(off(twins[0], row) for row in rows)


def test_scales_of_groups_are_counted(runs: TinyRuns, grouped: QuantParams) -> None:
    model = runs.model
    cond = model.condition(torch.zeros(1, dtype=torch.long))
    assert cond is not None
    given: dict[str, Any] = {
        "latent_shape": model.component.latent_shape, "cond": cond[:1],
        "schedule": CACHED, "sites": model.denoiser.sites,
    }  # fmt: skip
    without = tuple({key: value for key, value in row.items() if key != "weight_group"} for row in grouped.coverage)
    cost, before = (counted_cost(model.denoiser.network, **given, coverage=of) for of in (grouped.coverage, without))
    groups = [tensor.numel() for key, tensor in grouped.tensors.items() if key.endswith("/scale") and tensor.ndim == 2]
    assert cost["weight_bytes"] == before["weight_bytes"] + sum(groups) * (32 + 4) / 8
    assert cost["bops_mean"] == before["bops_mean"]


def test_a_layer_that_stays_in_full_precision_has_no_groups(runs: TinyRuns) -> None:
    rows = replace(GROUPED, exclude=("mid_block.*",)).coverage(runs.model.denoiser)
    left = [row for row in rows if row["reason"]]
    assert left
    assert not any("weight_group" in row for row in left)


def test_rounding_in_closed_form_keeps_the_groups_grids(runs: TinyRuns, grouped: QuantParams, tmp_path: Path) -> None:
    rounded = GPTQ(
        base=GROUPED, asymmetric=True, ridge=0.05, damping=0.01, targets="full", num_states=4, refresh_share=0.5,
        wait=None, seed=0,
    )  # fmt: skip
    params = runs.calibrated(rounded, tmp_path)
    assert all(torch.equal(params.tensors[key], value) for key, value in grouped.tensors.items())
    rows = [row for row in params.coverage if "error_learned" in row]
    assert all(row["error_learned"] <= row["error_nearest"] for row in rows)
    assert sum(row["error_learned"] < row["error_nearest"] for row in rows) > len(rows) / 2


def test_a_soft_weight_starts_at_the_weight() -> None:
    weight = torch.randn(4, 9, 3, 3, generator=torch.Generator().manual_seed(0))
    scale, zero_point = choose_weight_qparams(weight, 8, SEARCH, 2)
    soft = SoftWeight(weight, 8, scale=scale, zero_point=zero_point)
    within = (weight - soft.value).abs() <= over_weight(scale, weight) * 1e-3
    assert within.float().mean() > 0.9  # but for what the search clips


def test_stored_weights_draw_what_the_checkpoint_draws(runs: TinyRuns, grouped: QuantParams, tmp_path: Path) -> None:
    denoiser = runs.model.denoiser
    save_weights(tmp_path, denoiser.network.backbone, grouped)
    stored = StoredWeights.of(tmp_path)
    backbone, held = stored.load(), stored.joined(grouped)
    again = replace(
        denoiser_of(backbone, site=denoiser.sites[0], guidance=denoiser.guidance), null_first=denoiser.null_first
    )
    twins = fake_quantized(denoiser, grouped), fake_quantized(again, held)
    assert torch.equal(*(runs.latents(twin) for twin in twins))


def test_integers_leave_them_in_float_and_say_why(runs: TinyRuns, grouped: QuantParams) -> None:
    backbone = runs.model.denoiser.network.backbone
    reasons = {in_float(backbone.get_submodule(row["name"]), row, exact_bits=8) for row in grouped.coverage}
    assert "a weight scale for every 5 input channels" in reasons
    assert "" not in reasons
    assert not Int8().real(Acceleration(schedule=CACHED, params=grouped))  # so its images are called simulated
