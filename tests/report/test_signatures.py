"""Each failure, provoked on purpose, is named with its cause; healthy runs raise none."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cq.core.artifacts import ChannelAffine
from cq.evaluate.diagnosis import Diagnosis, diagnosed, looked_at
from cq.quantize.twin import fake_quantized
from cq.report import signatures
from cq.report.kept import Kept
from cq.report.pick import Run
from cq.report.signatures import of_artefacts, of_record
from cq.run.components import Components
from cq.run.context import Run as Rebuilt
from cq.run.record import RunRecord
from cq.run.record_file import read
from tests.report.synthetic import record, score

RESULTS = Path(__file__).parents[2] / "results"
ALL = {"quality falls at a step", "speed below the counted one", "correction corrupted", "channels shift",
       "images flipped by an outlier"}  # fmt: skip


def names(found: Any) -> set[str]:
    return {sign.name for sign in found}


# healthy runs


def test_no_recorded_run_shows_a_sign_but_those_with_three_refreshes_in_fifty_calls() -> None:
    """Full precision to W4A8, N = 2 to 20, four models, every schedule and correction: 800 runs."""
    records = [each for file in RESULTS.glob("runs_*.jsonl") if "schedules" not in file.name for each in read(file)]
    assert len(records) > 500
    assert {each.budget["cache_interval"] for each in records} >= {2, 5, 10, 20}
    assert any(each.budget["weight_bits"] == 4 for each in records)
    signed = [each for each in records if of_record(each)]
    assert {each.experiment for each in signed} == {"recipes/naive", "recipes/paper"}  # where nothing leads them back
    assert {(each.budget["cache_interval"], each.budget["num_steps"]) for each in signed} == {(20, 50)}


def test_what_is_kept_of_a_healthy_run_shows_none(tiny_run: Run, tiny_kept: Kept) -> None:
    """W4A8 with cache and both corrections; all artefacts were at hand."""
    assert tiny_kept.gone == {}
    assert tiny_kept.errors_N is not None
    assert names(of_artefacts(tiny_run.record, tiny_kept)) == set()


# quality falls at a step


def test_a_schedule_too_aggressive_at_a_step_is_named() -> None:
    """Recorded: three refreshes in fifty calls, the last thirty calls on one map."""
    records = read(RESULTS / "runs_schedules.jsonl")
    (found,) = [
        of_record(each) for each in records
        if (each.label, each.budget["cache_interval"], each.seed) == ("DPS, L1 weighted by share", 20, 0)
        and each.model["name"] == "dit_mini"
    ]  # fmt: skip
    (sign,) = found
    assert sign.name == "quality falls at a step"
    assert "in calls 21 to 49" in sign.evidence
    assert "correct@correct.cache=channel_affine" in sign.remedy


def test_growth_over_many_groups_is_no_step() -> None:
    calls = record().schedule["num_calls"]
    slow = [0.5 * call / calls for call in range(calls)]
    assert of_record(curved(slow)) == ()
    jump = [0.0] * 45 + [0.5] * (calls - 45)
    assert "in calls 40 to 59" in of_record(curved(jump))[0].evidence
    assert of_record(curved([*jump[:-1], float("inf")]))[0].name == "quality falls at a step"
    whole = {"num_calls": calls, "refresh_calls": list(range(calls))}
    assert of_record(replace(curved(jump), schedule=whole)) == ()  # no cache: no fault of a schedule


def curved(curve: list[float]) -> RunRecord:
    return record(scores={"latent_error_fp": score(curve[-1], curve=curve, metric="latent_error_fp")})


# speed below the counted one


def test_a_cache_that_is_not_reused_is_named_by_the_clock() -> None:
    measured = {"seconds_per_image": 1.0, "peak_mem_mib": 1.0, "device": "cpu", "speedup": 1.02}
    slow = record(choices={"quantize": "none"}, measured=measured)
    assert "1.02 times as fast as full precision by the clock, 4.17 times" in of_record(slow)[0].evidence
    assert of_record(replace(slow, measured={**measured, "speedup": 2.9})) == ()
    assert of_record(replace(slow, measured=None)) == ()  # fake quantization is never timed


def test_a_cache_that_is_not_reused_is_named_by_the_operations_that_ran(
    tiny_run: Run, tiny_kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rebuilt(tiny_run)
    network = run.model.denoiser.network
    full = network.full
    monkeypatch.setattr(
        type(network), "shallow", lambda self, x, timestep, cond, *, reuse: full(x, timestep, cond, record=())[0]
    )
    found = looked_again(run, tiny_kept)
    (sign,) = of_artefacts(tiny_run.record, replace(tiny_kept, diagnosis=found))
    assert sign.name == "speed below the counted one"
    assert "10 of 10 calls ran the whole network, and 5 were scheduled to" in sign.evidence


# correction corrupted


@pytest.mark.parametrize("slot", ["cache", "quant"])
@pytest.mark.parametrize("how", ["not finite", "far off"])
def test_a_corrupted_table_is_named(tiny_run: Run, tiny_kept: Kept, slot: str, how: str) -> None:
    def edited(table_T2C: Tensor) -> Tensor:
        table_T2C = table_T2C.clone()
        table_T2C[3, 0, 1] = float("nan") if how == "not finite" else 40.0
        return table_T2C

    (sign,) = of_artefacts(tiny_run.record, with_tables(tiny_kept, slot, edited))
    assert sign.name == "correction corrupted"
    assert sign.evidence.startswith(f"{slot}: ")
    assert "call 3" in sign.evidence


def test_a_correction_that_makes_the_error_larger_is_named(tiny_run: Run, tiny_kept: Kept) -> None:
    """Finite, and near the identity: as a corrector with a slip in it would fit."""
    (sign,) = of_artefacts(tiny_run.record, with_tables(tiny_kept, "cache", lambda table_T2C: table_T2C * 1.3))
    assert "times as much (squared) at call" in sign.evidence


def with_tables(found: Kept, slot: str, edited: Any) -> Kept:
    """With the tables of a slot edited in memory: on disk the checksum would refuse them."""
    assert found.acceleration is not None
    correction: ChannelAffine = getattr(found.acceleration, slot)
    tables = {name: edited(table) for name, table in correction.tables.items()}
    changes: Any = {slot: replace(correction, tables=tables)}
    return replace(found, acceleration=replace(found.acceleration, **changes))


# channels shift


def test_a_channel_whose_scale_is_off_is_named(tiny_run: Run, tiny_kept: Kept) -> None:
    name = "up_blocks.1.resnets.0.conv1"

    def edited(scale_C: Tensor) -> Tensor:
        return torch.where(torch.arange(len(scale_C)) == 5, scale_C / 10, scale_C)

    found = looked_again(rebuilt(tiny_run), with_scale(tiny_kept, f"{name}.weight0", edited))
    (sign,) = of_artefacts(tiny_run.record, replace(tiny_kept, diagnosis=found))
    assert sign.name == "channels shift"
    assert f"channels 5 of {name}" in sign.evidence


# images flipped by an outlier


@pytest.mark.parametrize(("factor", "said"), [(0.2, "lies beyond its range"), (100.0, "has a range")])
def test_a_range_that_is_off_is_named(tiny_run: Run, tiny_kept: Kept, factor: float, said: str) -> None:
    changed = with_scale(tiny_kept, "conv_in.input0", lambda scale_T: scale_T * factor)
    found = looked_again(rebuilt(tiny_run), changed)
    (sign,) = of_artefacts(tiny_run.record, replace(tiny_kept, diagnosis=found))
    assert sign.name == "images flipped by an outlier"
    assert f"the input conv_in.input0 {said}" in sign.evidence


def test_images_that_go_beyond_the_first_layers_range_are_named(tiny_kept: Kept) -> None:
    acceleration = tiny_kept.acceleration
    assert acceleration is not None
    states, errors = torch.full((20, 4, 8, 8), 0.5), torch.full((20,), 0.02)
    states[7, 0, 0, 0], errors[7] = 500.0, 1.7
    seeds = tuple(range(100, 120))
    sign = signatures.flipped_by_outliers(acceleration, states, errors, seeds)
    assert sign is not None
    assert "1 of 20 images are off by more than 30% (seeds 107)" in sign.evidence
    assert "the first layer, conv_in" in sign.evidence
    states[7, 0, 0, 0] = 0.5  # flipped, and not by its range
    assert signatures.flipped_by_outliers(acceleration, states, errors, seeds) is None
    assert signatures.flipped_by_outliers(acceleration, states, errors + 1, seeds) is None  # all of them


def rebuilt(run: Run) -> Rebuilt:
    config = OmegaConf.create(dict(run.record.config))
    config.paths.update(store=str(run.file.parent / "elsewhere"), tracking=str(run.file.parent / "tracking"))
    return Rebuilt(Components.of(config))


def with_scale(found: Kept, quantizer: str, edited: Any) -> Kept:
    """With the scale of one quantizer edited in memory."""
    assert found.acceleration is not None
    params = found.acceleration.params
    scale = params.tensors[f"{quantizer}/scale"]
    tensors: Mapping[str, Tensor] = {**params.tensors, f"{quantizer}/scale": edited(scale)}
    return replace(found, acceleration=replace(found.acceleration, params=replace(params, tensors=tensors)))


def looked_again(run: Rebuilt, found: Kept) -> Diagnosis:
    """As the stage does, with two images."""
    acceleration, denoiser = found.acceleration, run.model.denoiser
    assert acceleration is not None
    return diagnosed(
        denoiser, fake_quantized(denoiser, acceleration.params, acceleration.quant), acceleration.params,
        run.loops.one(denoiser, (7, 8), acceleration), calls=looked_at(acceleration.schedule), num_images=2,
        num_calls=acceleration.num_calls,
    )  # fmt: skip


def test_the_end_of_a_run_tells_each_sign_on_a_line(caplog: pytest.LogCaptureFixture) -> None:
    calls = record().schedule["num_calls"]
    signatures.warn_of(curved([0.0] * 45 + [0.5] * (calls - 45)))
    (line,) = caplog.messages
    assert line.startswith("quality falls at a step: the error of the latents grows by 0.50")
    assert "\n" not in line
