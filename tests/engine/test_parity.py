"""The integer engine against its simulation on equal inputs: every layer, predictions, and the law that holds it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cq.core.acceleration import Acceleration
from cq.core.artifacts import ChannelAffine, QuantParams
from cq.engine import integer
from cq.engine.int8 import Int8
from cq.engine.kernels import weight_bits
from cq.evaluate.parity import Layers, Ratio, SideBySide, exact_sums, reversed_sums
from cq.laws import lowering
from cq.laws.law import Broken, World
from cq.laws.tiny import tiny_world
from cq.quantize.twin import entry_layers
from tests.quantize.trajectories import CALLS, TinyRuns

LEAST_LAYER_DB = 120.0
pytestmark = pytest.mark.skipif(weight_bits() < 8, reason="products of 8 bits saturate on this processor")


@pytest.fixture(autouse=True)
def every_layer_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer, "SMALLEST", 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return tiny_world(tmp_path_factory.mktemp("world"))


def test_every_layer_is_that_of_the_simulation(runs: TinyRuns, params: QuantParams) -> None:
    """At every call, with gains and offsets of either sign and scales of their own."""
    torch.manual_seed(0)
    denoiser, tables = runs.model.denoiser, {}
    for name in entry_layers(denoiser, params):
        tables[name] = torch.randn(CALLS, 2, len(denoiser.network.backbone.get_submodule(name).weight))
    made = Acceleration(schedule=runs.schedule, params=params, quant=ChannelAffine(schedule="", tables=tables, r2={}))
    twin, executed = runs.twin(params, made.quant), Int8().lower(denoiser, made)
    both = SideBySide(twin, {"int8": executed, "itself": reversed_sums(twin), "exact": exact_sums(twin)})
    layers = Layers(twin, executed)  # type: ignore[arg-type]
    runs.latents(both)
    assert len(layers.ratios) == sum(not row["reason"] and row["kind"] != "attention" for row in params.coverage)
    assert min(each.db for each in layers.ratios.values()) > LEAST_LAYER_DB
    assert both.ratios["int8"].db > 40
    assert both.ratios["itself"].db > 40
    assert both.ratios["int8"].db > both.ratios["exact"].db - 3


def test_a_ratio_is_over_all_that_was_added() -> None:
    ratio = Ratio()
    assert ratio.db == math.inf
    ratio.add(torch.tensor([3.0]), torch.tensor([3.0]))
    ratio.add(torch.tensor([1.0]), torch.tensor([1.1]))
    assert ratio.db == pytest.approx(10 * math.log10(10 / 0.01), rel=1e-4)


class Wrong(nn.Module):
    """An integer layer that leaves out what `without` says."""

    def __init__(self, stored: Any, without: str, **options: Any) -> None:
        super().__init__()
        if without == "correction":
            stored = replace(stored, correction=None)
        self._layer = integer.IntegerLayer(stored, **options)
        for product in self._layer._products if without == "zero points" else ():
            product.shift_O = None if product.shift_O is None else torch.zeros_like(product.shift_O)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._layer(x)
        return out


@pytest.mark.parametrize("without", ["", "correction", "zero points"])
def test_the_law_of_engines_sees_what_is_left_out(without: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.engine.int8.IntegerLayer", lambda stored, **options: Wrong(stored, without, **options))
    if not without:
        lowering.it_predicts_as_the_simulation_does(lambda **_: Int8(), world)
        return
    with pytest.raises(Broken, match="Compute on the stored grids"):
        lowering.it_predicts_as_the_simulation_does(lambda **_: Int8(), world)


def test_it_is_refused_before_anything_runs_where_it_cannot_compute(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cq.run.components import Components
    from tests.tiny_runs import composed, quick

    config, _ = composed(quick(tiny_folder, tmp_path, "quantize=minmax", "engine=int8"))
    monkeypatch.setattr("cq.engine.int8.weight_bits", lambda: 0)
    with pytest.raises(ValueError, match=r"engine=int8: its products .* Set engine=simulate"):
        Components.of(config)
