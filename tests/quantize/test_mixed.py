"""Weights of several widths, against the same quantizer with one."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from cq.quantize.edges import WideEdges
from cq.quantize.mixed import MixedWidths
from tests.quantize.trajectories import PTQ_8, TinyRuns

GIVEN: dict[str, Any] = {field.name: getattr(PTQ_8, field.name) for field in fields(PTQ_8)}
GIVEN |= {"edge_input_bits": 12, "edge_input_range": 2.0, "last_weight_bits": 12}


def test_only_named_layers_change_their_weights(runs: TinyRuns) -> None:
    plain = runs.calibrated(WideEdges(**GIVEN))
    mixed = runs.calibrated(MixedWidths(**GIVEN, widths={"*.conv1": 3, "*conv*": 5}))
    changed = {row["name"] for row in mixed.coverage} & {
        row["name"] for row, other in zip(mixed.coverage, plain.coverage, strict=True) if row != other
    }
    widths = {row["name"]: row["weight_bits"] for row in mixed.coverage if row["name"] in changed}
    assert set(widths.values()) == {3, 5}
    assert all((bits == 3) == name.endswith(".conv1") for name, bits in widths.items())
    assert not changed & {"conv_in", "conv_out"}  # whose bits have keys of their own
    differing = {key for key, value in plain.tensors.items() if not torch.equal(value, mixed.tensors[key])}
    assert {key.partition(".weight")[0] for key in differing} == changed
    for name, bits in widths.items():
        assert mixed.bits[f"{name}.weight0"] == bits


def test_no_widths_are_the_plain_quantizer(runs: TinyRuns) -> None:
    plain, none = runs.calibrated(WideEdges(**GIVEN)), runs.calibrated(MixedWidths(**GIVEN, widths=None))
    assert (none.bits, none.coverage) == (plain.bits, plain.coverage)
    assert all(torch.equal(value, none.tensors[key]) for key, value in plain.tensors.items())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantize\.widths\['\*conv\*'\]=1: must lie in 2\.\.16"):
        MixedWidths(**GIVEN, widths={"*conv*": 1})
    layers = frozenset({"mid.conv1", "mid.to_q"})
    MixedWidths(**GIVEN, widths={"*conv*": 4}).check_layers(layers)
    with pytest.raises(ValueError, match=r"quantize\.widths=\['\*cnv\*'\]: no layer has such a name"):
        MixedWidths(**GIVEN, widths={"*cnv*": 4}).check_layers(layers)
