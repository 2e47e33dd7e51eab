"""Reconstruction of the tiny U-Net: kills, what is stored, and what is left alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.artifacts import ChannelAffine, QuantParams
from cq.quantize.layers import QuantLayer
from cq.quantize.learn import Workbench, learn_unit
from cq.quantize.observers import MinMax
from cq.quantize.states import StateSampler, sampled_states
from cq.run.ledger import RunError, execute
from tests.quantize.reconstructions import RECONSTRUCT, UNITS
from tests.quantize.trajectories import CACHED, CALLS, TinyRuns, identity_card
from tests.tiny_runs import composed, quick

LEARN = "cq.quantize.reconstruct.learn_unit"
ENTRY = "up_blocks.2.resnets.2"


@pytest.fixture(scope="module")
def params(runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> QuantParams:
    return runs.calibrated(RECONSTRUCT, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def base(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(RECONSTRUCT.base)


class KilledError(Exception):
    """Where a kill would have been."""


def learning(killed_before: Callable[[str, list[str]], bool], done: list[str]) -> Any:
    """`learn_unit` that notes its units in `done`, and is killed where it is said."""

    def learn(bench: Workbench, unit: str, *args: Any, **options: Any) -> dict[str, Tensor]:
        if killed_before(unit, done):
            raise KilledError
        done.append(unit)
        return learn_unit(bench, unit, *args, **options)

    return learn


def test_a_calibration_that_was_killed_half_way_ends_as_an_undisturbed_one(
    runs: TinyRuns, params: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[list[str]] = []
    for last in (2, 3):
        attempts.append([])
        monkeypatch.setattr(LEARN, learning(lambda _, done, last=last: len(done) == last, attempts[-1]))  # type: ignore[misc]
        with pytest.raises(KilledError):
            runs.calibrated(RECONSTRUCT, tmp_path)
    attempts.append([])
    monkeypatch.setattr(LEARN, learning(lambda *_: False, attempts[-1]))
    assert runs.calibrated(RECONSTRUCT, tmp_path).digest == params.digest
    assert [unit for attempt in attempts for unit in attempt] == UNITS  # each once


def test_a_unit_that_was_damaged_between_kill_and_resume_is_learned_again(
    runs: TinyRuns, params: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    first: list[str] = []
    monkeypatch.setattr(LEARN, learning(lambda _, done: len(done) == 3, first))
    with pytest.raises(KilledError):
        runs.calibrated(RECONSTRUCT, tmp_path)
    damaged = tmp_path / "unit_0001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1  # the file still parses
    damaged.write_bytes(content)
    second: list[str] = []
    monkeypatch.setattr(LEARN, learning(lambda *_: False, second))
    assert runs.calibrated(RECONSTRUCT, tmp_path).digest == params.digest
    assert second == [UNITS[1], *UNITS[len(first) :]]
    assert f"{damaged}: this shard is damaged" in caplog.text


def test_a_kill_while_the_base_is_written_leaves_nothing_to_trip_over(
    runs: TinyRuns, params: QuantParams, base: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("cq.quantize.on_base.os.rename", kill)
        with pytest.raises(KilledError):
            runs.calibrated(RECONSTRUCT, tmp_path)
    assert not (tmp_path / "base").exists()
    monkeypatch.setattr(LEARN, kill)
    with pytest.raises(KilledError):
        runs.calibrated(RECONSTRUCT, tmp_path)
    assert QuantParams.load(tmp_path / "base").digest == base.digest


def test_the_twin_is_rebuilt_bit_for_bit_from_the_artefact(
    runs: TinyRuns, params: QuantParams, base: QuantParams, tmp_path: Path
) -> None:
    params.save(tmp_path)
    twins = [runs.twin(version) for version in (params, QuantParams.load(tmp_path))]
    outputs = [runs.latents(twin) for twin in twins]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], runs.latents(runs.twin(base)))


def test_codes_are_small_integers_next_to_the_nearest_ones(
    runs: TinyRuns, params: QuantParams, base: QuantParams
) -> None:
    codes = {name: tensor for name, tensor in params.tensors.items() if name.endswith("/codes")}
    assert len(codes) == 16  # of the units, each of which gained
    rounded = runs.twin(base).network.backbone
    moved = total = 0
    for name, tensor in codes.items():
        assert tensor.dtype == torch.uint8
        layer, _, index = name.removesuffix("/codes").rpartition(".weight")
        assert int(tensor.max()) < 2 ** params.bits[f"{layer}.weight{index}"]
        quantized = rounded.get_submodule(layer)
        assert isinstance(quantized, QuantLayer)
        weight: Any = quantized.weights[int(index)]
        rows = (-1,) + (1,) * (tensor.ndim - 1)
        learned = (tensor.int() - weight.zero_point.view(rows)) * weight.scale.view(rows)
        steps = ((learned - weight.value) / weight.scale.view(rows)).round()
        assert steps.abs().max() <= 1
        moved, total = moved + int((steps != 0).sum()), total + steps.numel()
    assert 0.01 < moved / total < 0.5
    assert {name: tensor for name, tensor in params.tensors.items() if name not in codes}.keys() == base.tensors.keys()
    assert all(torch.equal(params.tensors[name], tensor) for name, tensor in base.tensors.items())


def test_learned_scales_are_stored_and_the_rest_stays(runs: TinyRuns, base: QuantParams, tmp_path: Path) -> None:
    spreads = {}
    for learned in ("shared", "per_call"):
        (tmp_path / learned).mkdir()
        quantizer = replace(
            RECONSTRUCT, learned_scales=cast(Any, learned), iterations=8, learning_rate=0.02, scale_learning_rate=0.02
        )
        tensors = runs.calibrated(quantizer, tmp_path / learned).tensors
        kept = [name for name in tensors if name.endswith(("zero_point", "weight0/scale"))]
        assert all(torch.equal(tensors[name], base.tensors[name]) for name in kept)
        ratios = [tensors[key] / base.tensors[key] for key in tensors if key.endswith(("input0/scale", "input1/scale"))]
        changed = [ratio for ratio in ratios if (ratio != 1).any()]
        assert len(changed) > len(ratios) / 2
        spreads[learned] = max(float(ratio.max() / ratio.min()) for ratio in changed)
    assert spreads["shared"] < 1 + 1e-6  # one factor for all calls
    assert spreads["per_call"] > 1.01


def test_a_unit_that_learning_made_worse_keeps_nearest_rounding(
    runs: TinyRuns, base: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(bench: Workbench, unit: str, *_: Any, **__: Any) -> dict[str, Tensor]:
        return {f"{name}/codes": torch.zeros(part.shape, dtype=torch.uint8) for name, _, _, part in bench.weights(unit)}

    monkeypatch.setattr(LEARN, spoil)
    found = runs.calibrated(RECONSTRUCT, tmp_path)
    assert found.tensors.keys() == base.tensors.keys()
    assert all(row["error_nearest"] == row["error_learned"] for row in found.coverage if "unit" in row)
    assert torch.equal(runs.latents(runs.twin(found)), runs.latents(runs.twin(base)))


def test_longer_learning_lowers_the_errors_clearly(runs: TinyRuns, tmp_path: Path) -> None:
    quantizer = replace(RECONSTRUCT, iterations=40)
    rows = [row for row in runs.calibrated(quantizer, tmp_path).coverage if "unit" in row]
    ratios = {row["unit"]: row["error_learned"] / row["error_nearest"] for row in rows}
    assert set(ratios) == set(UNITS)
    assert ratios["up_blocks.2.resnets.0"] < 0.9
    assert max(ratios.values()) <= 1


def test_layers_alone_are_units_too(runs: TinyRuns, tmp_path: Path) -> None:
    quantizer = replace(RECONSTRUCT, units="layer")
    found = runs.calibrated(quantizer, tmp_path)
    rows = [row for row in found.coverage if "unit" in row]
    assert len(rows) > 10
    assert all(row["unit"] == row["name"] for row in rows)
    assert all(row["error_learned"] <= row["error_nearest"] for row in rows)
    assert runs.latents(runs.twin(found)).isfinite().all()


def test_reconstruction_leaves_the_denoiser_untouched(runs: TinyRuns, params: QuantParams, tmp_path: Path) -> None:
    denoiser = runs.model.denoiser
    before, outputs = identity_card(denoiser.network), runs.latents(denoiser)
    runs.calibrated(replace(RECONSTRUCT, iterations=1), tmp_path)
    assert identity_card(denoiser.network) == before
    assert torch.equal(runs.latents(denoiser), outputs)


def test_a_state_holds_the_map_that_its_own_call_reads(runs: TinyRuns) -> None:
    """Every cached state is corrected with the row of its call, not with one row for all."""
    gains = torch.arange(1.0, CALLS + 1)
    table = torch.stack([gains, torch.zeros(CALLS)], 1)[:, :, None].expand(CALLS, 2, 8)
    corrected = replace(runs, correction=ChannelAffine(schedule=CACHED.identity, tables={ENTRY: table}, r2={}))
    options: dict[str, Any] = {"num_states": 99, "refresh_share": 0.5, "copies": 2, "seed": 0}
    refresh, cached = sampled_states(corrected.model.denoiser, corrected, **options)
    assert refresh.maps == {}
    assert sorted(refresh.calls_P.tolist()) == [0, 0, 0, 0, 2, 2, 2, 2]
    seen = {}
    for seeds in corrected.seeds:
        for step in corrected.steps(corrected.model.denoiser, seeds):
            if step.output.features:
                held = step.output.features[ENTRY].view(2, len(seeds), 8, 8, 8).transpose(0, 1)
            else:
                for image, seed in enumerate(seeds):
                    seen[step.call, seed] = held[image] * gains[step.call]
    assert len(cached) == len(seen)
    for call, found in zip(cached.calls_P.tolist(), cached.maps[ENTRY], strict=True):
        assert any(torch.equal(found, expected) for (at, _), expected in seen.items() if at == call)


@pytest.mark.parametrize(
    ("num_states", "share", "expected"),
    [(6, 0.5, (3, 3)), (6, 0.2, (1, 5)), (4, 0.01, (1, 3)), (14, 0.5, (7, 7)), (15, 1.0, (8, 7)), (99, 0.5, (8, 8))],
)
def test_how_many_states_are_of_refresh_calls(
    runs: TinyRuns, num_states: int, share: float, expected: tuple[int, int]
) -> None:
    groups = sampled_states(
        runs.model.denoiser, runs, num_states=num_states, refresh_share=share, copies=2, seed=0
    )  # fmt: skip
    assert tuple(map(len, groups)) == expected


def test_which_states_are_kept_does_not_depend_on_batches_and_follows_the_seed(runs: TinyRuns) -> None:
    def kept(trajectories: TinyRuns, seed: int) -> list[Tensor]:
        sampler = StateSampler(runs.model.denoiser, num_states=5, seed=seed)
        for _ in trajectories(sampler, deployed=True):
            pass
        return [group.x_PCHW for group in sampler.chosen(0.5, copies=2)]

    first = kept(runs, 0)
    for mine, other in zip(first, kept(replace(runs, seeds=((0, 1, 2, 3),)), 0), strict=True):
        assert_close(mine, other, rtol=1e-3, atol=1e-4)  # kernels of other batch sizes round otherwise
    assert not all(torch.equal(*pair) for pair in zip(first, kept(runs, 1), strict=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iterations", 0), ("batch_rows", 0), ("num_states", 0), ("learning_rate", -1.0), ("regulariser", -0.1),
        ("scale_learning_rate", -1.0), ("warm_up", 1.0), ("refresh_share", 0.0), ("refresh_share", 1.5),
        ("beta", (2.0, 20.0)), ("beta", (20.0, 0.5)),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"quantize\.{key}="):
        replace(RECONSTRUCT, **cast(Any, {key: value}))


def test_it_calibrates_on_as_many_trajectories_as_its_base() -> None:
    assert (RECONSTRUCT.num_samples, RECONSTRUCT.batch_size) == (4, 2)
    assert replace(RECONSTRUCT, base=replace(RECONSTRUCT.base, act_observer=MinMax(), num_samples=7)).num_samples == 7


def test_a_run_from_end_to_end_resumes_units_and_records_the_bits_of_its_base(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = quick(
        tiny_folder, tmp_path, "schedule=uniform", "quantize=reconstruct", "quantize@quantize.base=minmax",
        "quantize.base.num_samples=2", "quantize.iterations=2", "quantize.num_states=8", "budget.weight_bits=4",
        "quantize.base.exclude=['down*','mid*','up_blocks.[01]*']",
    )  # fmt: skip
    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(LEARN, learning(lambda unit, _: unit == "conv_out", done))
        with pytest.raises(RunError, match="KilledError"):
            execute(*composed(arguments))
    monkeypatch.setattr(LEARN, learning(lambda *_: False, done))
    record = execute(*composed(arguments))
    assert len(done) == len(set(done)) == 6
    assert record.budget["weight_bits"] == 4
    assert record.choices["quantize"] == "reconstruct"
    (folder,) = (path for path in (tmp_path / "store/quant_params").iterdir() if path.is_dir())
    rows = json.loads((folder / "artifact.json").read_text())["coverage"]
    assert {row["unit"] for row in rows if "unit" in row} >= {"conv_in", "conv_out"}
