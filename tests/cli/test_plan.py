"""The estimate of a run: its parts by hand, and the whole against the clock."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cq.cli.plan import estimate_seconds, time_calls, unshared
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import CallSeconds
from cq.run.pipeline import run
from tests.tiny_runs import composed, quick

CALLS = CallSeconds(full=1.0, cached=0.25, twin=2.0, observed=3.0, search=10.0)


def parts_of(tiny_folder: Path, root: Path, *overrides: str) -> Components:
    """10 calls, 4 images, 2 calibration trajectories."""
    return Components.of(composed(quick(tiny_folder, root, *overrides))[0])


def estimate(parts: Components) -> Mapping[str, float]:
    return estimate_seconds(parts, CALLS)


def test_an_uncached_run_draws_one_set(tiny_folder: Path, tmp_path: Path) -> None:
    stages = estimate(parts_of(tiny_folder, tmp_path))
    assert stages["samples_full_precision"] == 4 * 10
    assert stages["samples"] == stages["statistics"] == stages["timing"] == 0
    assert stages["quant_params"] == 0


def test_a_cached_run_draws_a_second_set_with_half_its_calls_full(tiny_folder: Path, tmp_path: Path) -> None:
    stages = estimate(parts_of(tiny_folder, tmp_path, "schedule=uniform", "latency.repeats=2"))
    assert stages["samples"] == 4 * (5 * 1 + 5 * 0.25)
    assert stages["statistics"] == 0  # neither planner nor correction asks for them
    assert stages["timing"] > 2 * (6.25 + 10)
    for choice in ("schedule=dps", "correct@correct.cache=channel_affine"):
        found = estimate(parts_of(tiny_folder, tmp_path, "schedule=uniform", choice))
        assert found["statistics"] >= 2 * 10


def test_the_correction_of_a_forecast_has_a_pass_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    forecast = ("predict=taylor1", "correct@correct.cache=channel_affine")
    found = estimate(parts_of(tiny_folder, tmp_path, "schedule=uniform", *forecast))
    assert (found["cache_correction"], found["statistics"]) == (2 * 10, 0)
    found = estimate(parts_of(tiny_folder, tmp_path, "schedule=dps", *forecast))
    assert found["cache_correction"] == 2 * 10
    assert found["statistics"] == pytest.approx(2 * 10 * 1.2)
    assert estimate(parts_of(tiny_folder, tmp_path, "schedule=dps", forecast[1]))["cache_correction"] == 0


def test_a_quantized_run_is_calibrated_and_draws_with_the_twin(tiny_folder: Path, tmp_path: Path) -> None:
    chosen = ("schedule=uniform", "quantize=minmax", "quantize.num_samples=3", "latency.repeats=2")
    stages = estimate(parts_of(tiny_folder, tmp_path, *chosen))
    assert stages["samples"] == 4 * 6.25 * 2
    assert stages["quant_params"] == 6.25 * (3 * 3 + 10)
    assert stages["timing"] == 0  # fake quantization is never timed
    assert stages["quant_correction"] == 0
    corrected = estimate(parts_of(tiny_folder, tmp_path, *chosen, "correct@correct.quant=channel_affine"))
    assert corrected["quant_correction"] >= 3 * 6.25


def test_a_baseline_of_other_steps_is_a_set_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    stages = estimate(parts_of(tiny_folder, tmp_path, "baseline.num_steps=20"))
    assert (stages["samples_full_precision"], stages["samples"]) == (4 * 20, 4 * 10)


def test_what_runs_share_is_counted_once(tiny_folder: Path, tmp_path: Path) -> None:
    def run_of(*overrides: str) -> tuple[Run, Mapping[str, float]]:
        return Run(parts_of(tiny_folder, tmp_path, *overrides)), {
            "samples_full_precision": 100.0,
            "samples": 10.0,
            "quant_params": 1.0,
        }

    def seconds(runs: list[tuple[Run, Mapping[str, float]]]) -> list[float]:
        return [sum(own.values()) for own in unshared(runs)]

    assert seconds([run_of()]) == [111]
    assert seconds([run_of(), run_of()]) == [111, 10]
    assert seconds([run_of(), run_of("schedule=uniform")]) == [111, 11]  # ranges of other trajectories
    assert seconds([run_of(), run_of("seed=1")]) == [111, 111]
    assert seconds([run_of(), run_of("baseline.num_steps=20")]) == [111, 110]  # which is no matter of calibration
    assert seconds([run_of(), run_of("sampler=dpmpp")]) == [111, 111]
    assert seconds([run_of(), run_of("budget.sample_steps=5")]) == [111, 11]  # fewer steps than the baseline's


def test_every_kind_of_call_is_timed_on_the_runs_own_model(tiny_folder: Path, tmp_path: Path) -> None:
    parts = parts_of(tiny_folder, tmp_path, "quantize=minmax")
    plain = time_calls(parts, repeats=1)
    assert plain.full > 0
    assert plain.cached > 0
    assert (plain.twin, plain.observed, plain.search) == (0, 0, 0)
    ticks = iter(range(1000))
    counted = time_calls(parts, parts.quantizer, repeats=3, clock=lambda: float(next(ticks)))
    units = parts.model.load().denoiser.network.units()
    assert plain.unit_bytes > 0
    assert counted == CallSeconds(
        full=0.5, cached=0.5, units=len(units), unit_bytes=plain.unit_bytes, twin=0.5, observed=0.5, search=1.0
    )  # fmt: skip


def test_reconstruction_takes_longer_where_passes_cannot_wait(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(tiny_folder, tmp_path, "quantize=reconstruct", "quantize.num_states=100")
    calls = replace(CALLS, units=30, unit_bytes=1000)
    seconds = []
    for free in (399_999, 400_000):  # twice for two networks, and half of it is taken
        monkeypatch.setattr("cq.quantize.passes.free_bytes", lambda _, free=free: free)
        seconds.append(estimate_seconds(parts, calls)["quant_params"])
    assert seconds[0] - seconds[1] == pytest.approx(100 * (30 - 2) * CALLS.twin)


def test_the_estimate_reads_the_schedule_and_no_label_of_it(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    file.write_text("[0, 2, 4, 6, 8]")
    uniform = estimate(parts_of(tiny_folder, tmp_path, "schedule=uniform"))
    assert estimate(parts_of(tiny_folder, tmp_path, "schedule=from_file", f"schedule.path={file}")) == uniform
    file.write_text("[0, 5]")
    fewer = estimate(parts_of(tiny_folder, tmp_path, "schedule=from_file", f"schedule.path={file}"))
    assert fewer["samples"] == 4 * (2 * 1 + 8 * 0.25)
    every = estimate(parts_of(tiny_folder, tmp_path, "schedule=uniform", "budget.cache_interval=1"))
    assert every["samples"] == 0  # the images of full precision
    dps = parts_of(tiny_folder, tmp_path, "schedule=dps")
    assert estimate(dps)["samples"] == uniform["samples"]
    groups = replace(dps, planner=replace(dps.planner, num_groups=2, min_group=1, max_group=9))  # type: ignore[type-var]
    assert estimate(groups)["samples"] == fewer["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["full_precision", "cache_dps", "quant_dps_dec_cache"])
def test_the_estimate_of_a_smoke_run_is_within_a_factor_of_two(experiment: str, tmp_path: Path) -> None:
    """On the bundled model, in CPU time of one thread: what else runs on the machine does not count."""
    import torchmetrics.functional.image  # noqa: F401 - a second to import, once a process and not once a run

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paths = [f"paths.{name}={tmp_path}/{name}" for name in ("store", "tracking")]
        arguments = [f"experiment=table5/{experiment}", "debug=smoke", f"paths.records={tmp_path}/r.jsonl", *paths]
        config = composed(arguments)[0]
        parts = Components.of(config)
        calls = time_calls(parts, parts.quantizer if parts.quantized else None, clock=time.process_time)
        stages = estimate_seconds(parts, calls)
        started = time.process_time()
        run(parts)
        took = time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    estimated = sum(stages.values())
    assert took / 2 < estimated < took * 2, (stages, parts.store.seconds, took)
