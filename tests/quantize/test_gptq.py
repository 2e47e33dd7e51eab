"""Compensated rounding of the tiny U-Net: kills, what is stored, and what is left alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cq.core.artifacts import QuantParams
from cq.quantize.compensate import compensated_codes
from cq.quantize.gptq import GPTQ
from tests.quantize.reconstructions import RECONSTRUCT
from tests.quantize.trajectories import TinyRuns, identity_card

ROUNDED = GPTQ(
    base=RECONSTRUCT.base, asymmetric=True, ridge=0.05, damping=0.01, targets="full", num_states=8, refresh_share=0.5,
    wait=None, seed=0,
)  # fmt: skip
CODES = "cq.quantize.gptq.compensated_codes"


@pytest.fixture(scope="module")
def base(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(ROUNDED.base)


@pytest.fixture(scope="module")
def params(runs: TinyRuns, base: QuantParams, tmp_path_factory: pytest.TempPathFactory) -> QuantParams:
    return runs.calibrated(ROUNDED, with_base(base, tmp_path_factory.mktemp("undisturbed")))


def with_base(base: QuantParams, shards: Path) -> Path:
    (shards / "base").mkdir()
    base.save(shards / "base")
    return shards


class KilledError(Exception):
    """Where a kill would have been."""


def test_a_calibration_that_was_killed_half_way_ends_as_an_undisturbed_one(
    runs: TinyRuns, base: QuantParams, params: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, rounded = with_base(base, tmp_path), 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal rounded
        if rounded == 7:
            raise KilledError
        rounded += 1
        return compensated_codes(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CODES, counted)
        with pytest.raises(KilledError):
            runs.calibrated(ROUNDED, shards)
    done = {path.name: path.stat().st_mtime_ns for path in shards.glob("layer_*")}
    assert len(done) == 7
    found = runs.calibrated(replace(ROUNDED, wait=False), shards)  # which finds the same, from the start for each layer
    assert found.digest == params.digest
    assert {path.name: path.stat().st_mtime_ns for path in shards.glob("layer_*")}.items() >= done.items()


def test_only_codes_are_added_to_what_the_base_decided(runs: TinyRuns, base: QuantParams, params: QuantParams) -> None:
    codes = {name: tensor for name, tensor in params.tensors.items() if name.endswith("/codes")}
    rows = [row for row in params.coverage if "unit" in row]
    assert len(rows) == 16
    assert len(codes) == 22 == len(params.tensors) - len(base.tensors)  # three layers have two halves
    for name, tensor in codes.items():
        assert tensor.dtype == torch.uint8
        assert int(tensor.max()) < 2 ** params.bits[name.removesuffix("/codes")]
    assert all(torch.equal(params.tensors[name], tensor) for name, tensor in base.tensors.items())
    assert all(row["error_learned"] < row["error_nearest"] for row in rows)
    assert not torch.equal(runs.latents(runs.twin(params)), runs.latents(runs.twin(base)))


def test_a_layer_that_compensation_made_worse_keeps_nearest_rounding(
    runs: TinyRuns, base: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CODES, lambda weight, *_, **__: torch.zeros(weight.shape, dtype=torch.int32))
    found = runs.calibrated(ROUNDED, with_base(base, tmp_path))
    assert found.tensors.keys() == base.tensors.keys()
    assert all(row["error_nearest"] == row["error_learned"] for row in found.coverage if "unit" in row)


def test_aiming_at_full_precisions_inputs_comes_nearer_to_full_precision(
    runs: TinyRuns, base: QuantParams, tmp_path: Path
) -> None:
    """Where the cache is not to be made up for, too: the trajectories that are compared have it."""
    found = [base]
    for asymmetric in (False, True):
        (tmp_path / str(asymmetric)).mkdir()
        quantizer = replace(ROUNDED, asymmetric=asymmetric, targets="cached", num_states=16)
        found.append(runs.calibrated(quantizer, with_base(base, tmp_path / str(asymmetric))))
    full = runs.latents(runs.model.denoiser)
    nearest, symmetric, aimed = (float((runs.latents(runs.twin(each)) - full).norm()) for each in found)
    assert aimed < 0.9 * min(nearest, symmetric)


def test_rounding_leaves_the_denoiser_untouched(runs: TinyRuns, base: QuantParams, tmp_path: Path) -> None:
    denoiser = runs.model.denoiser
    before, outputs = identity_card(denoiser.network), runs.latents(denoiser)
    runs.calibrated(ROUNDED, with_base(base, tmp_path))
    assert identity_card(denoiser.network) == before
    assert torch.equal(runs.latents(denoiser), outputs)


@pytest.mark.parametrize(
    ("key", "value"), [("num_states", 0), ("ridge", 0.0), ("damping", 2.0), ("refresh_share", 0.0)]
)  # fmt: skip
def test_impossible_numbers_are_refused(key: str, value: object) -> None:
    wrong: Any = {key: value}
    with pytest.raises(ValueError, match=rf"quantize\.{key}="):
        replace(ROUNDED, **wrong)
