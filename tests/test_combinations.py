"""Choices that nobody thought of together: every one runs to its scores on a tiny model of its family."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from cq.run.ledger import execute
from cq.run.record import RunRecord
from tests.families import component
from tests.tiny_runs import composed, quick

AFFINE = ("correct@correct.cache=channel_affine", "correct@correct.quant=channel_affine")
MIN_MAX = ("quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=1")
CASES = {
    "forecasts by threshold, corrected, quantized": ("ldm", "predict=taylor1", "schedule=threshold", *AFFINE, *MIN_MAX),
    "FORA, corrected, quantized": ("dit", "cache=fora", "schedule=uniform_from_end", *AFFINE, *MIN_MAX),
    "two phases, forecasts, the release's fit": (
        "dit", "cache=delta_dit", "cache.skipped=2", "predict=taylor2", "schedule=dps", "cost=residual", *AFFINE,
        "correct@correct.cache=release", *MIN_MAX,
    ),
    "nothing skipped": ("dit", "cache=delta_dit", "cache.skipped=0", "schedule=dps", "cost=residual", *AFFINE),
    "a part of a block as the cut": ("dit", "model.site=blocks.2.attn", "schedule=uniform", *AFFINE, *MIN_MAX),
    "PLMS planned by DPS": ("ldm", "sampler=plms", "schedule=dps", "cost=weighted_l1", *AFFINE),
    "an odd number of steps": ("ldm", "sampler=dpmpp", "budget.num_steps=7", "schedule=dps", *AFFINE),
    "every call a group": ("ldm", "budget.num_steps=4", "budget.cache_interval=1", "schedule=dps", *AFFINE, *MIN_MAX),
    "nearly every layer excluded": ("ldm", "schedule=uniform", *MIN_MAX, "quantize.exclude=['*conv*']", *AFFINE),
    "no guidance": ("ldm", "model.guidance=null", "schedule=uniform"),
    "one image, no trace": ("ldm", "sample.num_images=1", "sample.trace=0", "schedule=uniform"),
    "pixels, unconditional": ("ddpm", "schedule=dps", *AFFINE, *MIN_MAX),
    "prompts": ("sd", "sampler=plms", "schedule=threshold", "predict=taylorseer", *AFFINE, *MIN_MAX),
}  # fmt: skip
BASELINES = {
    "more steps": ("baseline.num_steps=20",),
    "another solver of as many calls": ("+sampler@baseline.sampler=dpmpp",),
    "another solver of more calls": ("+sampler@baseline.sampler=plms", "baseline.num_steps=20"),
}


def recorded(family: str, folders: dict[str, Path], root: Path, *overrides: str) -> RunRecord:
    """The record of a run on the family's tiny model, whatever component that takes."""
    config, choices = composed([*quick(folders[family], root), *(o for o in overrides if not o.startswith("model."))])
    model = component(family, folders[family])
    node: dict[Any, Any] = {field.name: getattr(model, field.name) for field in fields(model)}  # type: ignore[arg-type]
    own = OmegaConf.from_dotlist([o.removeprefix("model.") for o in overrides if o.startswith("model.")])
    target = f"{type(model).__module__}.{type(model).__qualname__}"
    config.model = OmegaConf.merge({"_target_": target, **node}, own)
    return execute(config, choices)


@pytest.mark.parametrize("case", CASES)
def test_it_runs_to_finite_scores(case: str, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    family, *overrides = CASES[case]
    record = recorded(family, tiny_folders, tmp_path, *overrides)
    assert record.status == "ok"
    assert set(record.scores) == {"psnr_fp_db", "ssim_fp", "latent_error_fp"}
    assert all(math.isfinite(score["value"]) for score in record.scores.values())
    traced = record.config["sample"]["trace"] > 0
    assert len(record.scores["latent_error_fp"]["curve"]) == record.schedule["num_calls"] * traced


def test_features_for_grey_images_are_refused_for_colour_before_any_is_drawn(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cq.run.pipeline.run", lambda *_: pytest.fail("a run was started"))
    told = r"features='zoo:features': takes images of 1 channel.*draws 3.*zoo:scene_features"
    with pytest.raises(ValueError, match=told):
        recorded("sd", tiny_folders, tmp_path, "evaluate=paired")


@pytest.mark.parametrize("case", BASELINES)
@pytest.mark.parametrize("planner", ["none", "uniform"])
def test_a_baseline_drawn_otherwise_is_compared_without_a_curve(
    case: str, planner: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    record = recorded("ldm", tiny_folders, tmp_path, f"schedule={planner}", *BASELINES[case])
    assert record.status == "ok"
    error = record.scores["latent_error_fp"]
    assert error["value"] > 0  # the run draws images of its own
    assert error["curve"] == []
    solver = {"PLMS()", "DPMpp()"} & set(error["protocol"]["baseline"].split(", "))
    assert len(solver) == (case != "more steps")
