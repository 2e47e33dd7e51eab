"""`cq.accelerate` on pipelines that are in memory: what `cq` would calibrate, and refusals before anything runs."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler
from hydra import initialize_config_dir

import cq
from cq.adapt.in_memory import SOLVERS as ALL
from cq.adapt.in_memory import PipelineSampler
from cq.models.unet import UNetCut, check_xl
from cq.run.config import CONF
from cq.run.pipeline import accelerated
from cq.sampler.ddim import DDIM
from cq.sampler.dpmpp import DPMpp
from cq.sampler.euler import Euler
from cq.sampler.plms import PLMS
from tests.adapt.conftest import run_of
from tests.adapt.stock import STEPS, stock
from tests.adapt.tiny_pipelines import KINDS, Tiny

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # diffusers hands numpy a tensor

SOLVERS = {"sd": PLMS(), "sdxl": Euler(), "pixart": DPMpp(), "dit": DDIM(), "ddpm": DDIM(), "uncond": DDIM()}
OTHERS = set(ALL) - {"DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"}
TEXTS = ("sd", "sdxl", "pixart")


@pytest.fixture
def tiny(tiny_folders: dict[str, Path]) -> Callable[[str], Tiny]:
    return lambda family: Tiny.of(family, tiny_folders[family], SOLVERS[family])


def accelerate(tiny: Tiny, folder: Path, *overrides: str, **options: Any) -> cq.Acceleration:
    """On two trajectories, with the guidance of `Tiny.stock`."""
    told: dict[str, Any] = {"guidance_scale": KINDS[tiny.family][1].get("guidance_scale")}
    if tiny.family in TEXTS:
        told["prompts"] = ["a cow", "a pig"]
    return cq.accelerate(
        tiny.pipe, overrides=["calibrate.num_samples=2", *overrides],
        **{"num_inference_steps": STEPS, "cache_interval": 2, "store": folder, **told, **options},
    )  # fmt: skip


@pytest.mark.parametrize("family", KINDS)
def test_a_pipeline_in_memory_draws_what_cqs_loop_draws_and_stays_as_it_was(
    family: str, tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    t = tiny(family)
    t.network.train(family != "dit")  # as one is that was built and not read; a DiT in training drops classes
    plain = t.stock()
    state = {name: (id(p), p._version, p.requires_grad) for name, p in t.network.named_parameters()}
    config = dict(t.pipe.scheduler.config)
    made = accelerate(t, tmp_path, site=t.model.component.site)
    assert t.network.training == (family != "dit")
    assert {name: (id(p), p._version, p.requires_grad) for name, p in t.network.named_parameters()} == state
    assert dict(t.pipe.scheduler.config) == config
    assert not any(part._forward_pre_hooks or "forward" in part.__dict__ for part in t.network.modules())
    assert torch.equal(t.stock(), plain)
    assert made.caches
    assert made.cache.tables
    with made.apply(t.pipe):
        assert torch.equal(t.stock(), t.as_stock(t.ours(made)))


@pytest.mark.parametrize("solver", sorted(OTHERS))
def test_other_solvers_of_diffusers_are_calibrated_as_they_are(
    solver: str, tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    t = tiny("sd")
    t.pipe.scheduler = getattr(diffusers, solver).from_config(t.pipe.scheduler.config)
    made = accelerate(t, tmp_path)
    t.model = replace(t.model, sampler=PipelineSampler.of(t.pipe.scheduler))
    assert made.num_calls == len(made.made_from["sampler"]["timesteps"])
    with made.apply(t.pipe):
        first = t.stock()
        assert torch.equal(first, t.ours(made))
        assert torch.equal(t.stock(), first)


def test_it_calibrates_what_cq_calibrates_bit_for_bit(tmp_path: Path) -> None:
    run = run_of("dit_mini", tmp_path, "model.site=blocks.1-7", "calibrate.batch_size=2")
    theirs = accelerated(run)
    pipe = stock("dit_mini").pipeline
    ours = cq.accelerate(
        pipe, num_inference_steps=STEPS, cache_interval=2, classes=range(10), guidance_scale=1.5,
        store=tmp_path / "own", overrides=["calibrate.num_samples=2", "calibrate.batch_size=2"],
    )  # fmt: skip
    assert ours.identity == theirs.identity
    assert ours.made_from["model"]["parameters"] == theirs.made_from["model"]["parameters"]


def test_a_second_time_everything_is_found_and_a_killed_one_goes_on(
    tiny: Callable[[str], Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = tiny("sd")
    whole = accelerate(t, tmp_path / "whole", "calibrate.batch_size=1")
    full, calls = UNetCut.recording, []

    def counted(self: UNetCut, sites: Any) -> Any:
        calls.append(1)
        if len(calls) == 11:  # in the second batch of seven calls, behind three that try the model
            raise KeyboardInterrupt
        return full(self, sites)

    monkeypatch.setattr(UNetCut, "recording", counted)
    with pytest.raises(KeyboardInterrupt):
        accelerate(t, tmp_path / "killed", "calibrate.batch_size=1")
    assert not any(part._forward_pre_hooks for part in t.network.modules())
    calls[:] = [1] * 11
    assert accelerate(t, tmp_path / "killed", "calibrate.batch_size=1").digest == whole.digest
    again = len(calls) - 11
    assert 7 <= again < 14  # one batch, and not both
    calls[:] = [1] * 11
    assert accelerate(t, tmp_path / "killed", "calibrate.batch_size=1").digest == whole.digest
    assert len(calls) - 11 < again - 6


def test_other_prompts_are_another_calibration(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    t = tiny("sd")
    made = accelerate(t, tmp_path)
    assert accelerate(t, tmp_path, prompts=["a cow", "a dog"]).identity != made.identity


def test_choices_of_the_command_line_are_taken(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    made = accelerate(
        tiny("dit"), tmp_path, "schedule=uniform", "predict=taylor1", "quantize=minmax", "quantize.num_samples=2",
        "correct@correct.output=ptqd", "budget.weight_bits=4",
    )  # fmt: skip
    assert made.schedule.planner == "uniform"
    assert made.depth == 2
    assert made.params.bits["transformer_blocks.1.ff.net.2.weight0"] == 4
    assert made.output.tables


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype, tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    t = tiny("dit")
    t.pipe.to(dtype)
    made = accelerate(t, tmp_path)
    assert set(made.made_from["model"]["parameters"]) == {str(dtype).removeprefix("torch.")}
    with made.apply(t.pipe):
        assert t.stock().isfinite().all()
    t.pipe.to(torch.float32)
    with pytest.raises(ValueError, match=r"dtype=float32: this Acceleration was made of weights in b?float16"):
        made.apply(t.pipe)


@pytest.mark.parametrize("choice", [("quantize=gptq",), ("quantize=reconstruct_quick", "quantize.iterations=4")])
def test_rounding_of_a_text_pipeline_in_half_precision_is_found(
    choice: tuple[str, ...], tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    t = tiny("sd")
    t.pipe.to(torch.bfloat16)
    few = ("quantize.base.num_samples=2", "quantize.base.batch_size=2", "quantize.num_states=4")
    with accelerate(t, tmp_path, *choice, *few).apply(t.pipe):
        assert t.stock().isfinite().all()


def test_what_is_read_beside_the_network_is_refused(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    t = tiny("sd")
    t.pipe.controlnet = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"pipe\.controlnet=Linear: adds to what the network computes"):
        accelerate(t, tmp_path)
    del t.pipe.controlnet
    t.network.peft_config = {"style": object()}  # as diffusers notes an adapter that is loaded
    with pytest.raises(ValueError, match=r"pipe\.unet.*has an adapter .*fuse_lora\(\) and then"):
        accelerate(t, tmp_path)


def test_a_refiner_is_refused(tiny: Callable[[str], Tiny]) -> None:
    network, pooled = tiny("sdxl").network, int(tiny("sdxl").pipe.text_encoder_2.config.projection_dim)
    check_xl(network, torch.zeros(1, pooled), 6)
    for width, ids in ((pooled, 5), (pooled + 8, 6)):
        with pytest.raises(ValueError, match="its refiner is told others"):
            check_xl(network, torch.zeros(1, width), ids)


def test_a_scheduler_that_steps_otherwise_is_refused(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    t = tiny("pixart")
    own = t.pipe.scheduler
    with accelerate(t, tmp_path).apply(t.pipe):
        for key, value in (("algorithm_type", "sde-dpmsolver++"), ("solver_order", 3), ("thresholding", True)):
            t.pipe.scheduler = type(own).from_config(own.config, **{key: value})
            with pytest.raises(ValueError, match=rf"scheduler\.config\.{key}=.* was made for"):
                t.stock()
        t.pipe.scheduler = own
        assert t.stock().isfinite().all()


def test_it_works_in_the_middle_of_a_hydra_application(tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    from hydra import compose

    with initialize_config_dir(str(CONF), version_base="1.3"):
        accelerate(tiny("ddpm"), tmp_path)
        assert compose("config").model  # the outer one is as it was


def test_what_it_costs_is_said_before_it_starts(
    tiny: Callable[[str], Tiny], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cq"):
        accelerate(tiny("ddpm"), tmp_path)
    told = [record.getMessage() for record in caplog.records]
    first = next(i for i, line in enumerate(told) if line.startswith("calibrating on 2 trajectories of 6 calls, about"))
    assert first < next(i for i, line in enumerate(told) if line.startswith("statistics done"))


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "no prompts": ("sd", {"prompts": None}, (), "prompts=None: a UNet2DConditionModel is calibrated on a list"),
    "one text": ("sd", {"prompts": "a cat"}, (), "prompts='a cat': .* list of prompts"),
    "prompts for pixels": ("ddpm", {"prompts": ["a"]}, (), "prompts: a UNet2DModel takes none"),
    "classes for text": ("sd", {"classes": [1]}, (), "classes: a UNet2DConditionModel takes none"),
    "unknown class": ("dit", {"classes": [1000]}, (), r"classes=\[1000\]: must be some of 0 to 999"),
    "site": ("sd", {"site": "up_blocks.9.resnets.0"}, (), r"^site='up_blocks\.9\.resnets\.0': this U-Net has"),
    "no steps": ("sd", {"num_inference_steps": 0}, (), "^num_inference_steps=0: must be"),
    "too many steps": ("dit", {"num_inference_steps": 2000}, (), "^num_inference_steps=2000: DDIMScheduler cannot"),
    "interval": ("sd", {"cache_interval": 0}, (), r"^cache_interval=0: the interval must lie in 1\.\."),
    "no such choice": ("sd", {}, ("schedule=dsp",), "schedule=dsp: there is no such choice. Did you mean 'dps'"),
    "no such key": ("sd", {}, ("calibrate.samples=3",), r"calibrate\.samples.*: there is no key 'samples'"),
    "unreadable": ("sd", {}, ("schedule",), "schedule: cannot be read"),
    "the model": ("sd", {}, ("model=sd_mini",), "overrides: model=sd_mini decides nothing here"),
    "the sampler": ("sd", {}, ("sampler=ddim",), "overrides: sampler=ddim decides nothing here"),
    "an argument": ("sd", {}, ("budget.num_steps=3",), "Pass num_inference_steps=... instead"),
    "another argument": ("sd", {}, ("recipe=best",), "Pass recipe=... instead"),
    "the seed": ("sd", {}, ("seed=3",), "Pass seed=... instead"),
    "clipping": ("ddpm", {"recipe": "best"}, (), "is not linear .*clip_sample=False"),
    "bits": ("sd", {}, ("quantize=ptq", "budget.weight_bits=1"), r"budget\.weight_bits=1: must"),
    "strategy": ("sd", {}, ("cache=fora",), "cache=FORA: works on transformer models"),
    "store": ("sd", {"store": "/dev/null/store"}, (), "^store=/dev/null/store: cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_anything_runs(
    case: str, tiny: Callable[[str], Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, options, overrides, message = REFUSED[case]
    t = tiny(family)
    monkeypatch.setattr(type(t.network), "forward", None)  # nothing runs
    with pytest.raises(ValueError, match=message):
        accelerate(t, tmp_path, *overrides, **options)
    assert not any(tmp_path.glob("statistics/*"))


@pytest.mark.parametrize("kind", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_a_solver_that_adds_noise_is_refused(kind: Any, tiny: Callable[[str], Tiny], tmp_path: Path) -> None:
    t = tiny("sd")
    t.pipe.scheduler = kind.from_config(t.pipe.scheduler.config)
    with pytest.raises(ValueError, match=rf"pipe\.scheduler={kind.__name__}: is no solver .* one of DDIMScheduler"):
        accelerate(t, tmp_path)
    dpm = tiny("pixart")
    dpm.pipe.scheduler = type(dpm.pipe.scheduler).from_config(
        dpm.pipe.scheduler.config, algorithm_type="sde-dpmsolver++"
    )
    with pytest.raises(ValueError, match=r"pipe\.scheduler=DPMSolverMultistepScheduler"):
        accelerate(dpm, tmp_path)


def test_a_pipeline_that_is_accelerated_or_of_another_number_type_is_refused(
    tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    t = tiny("dit")
    made = accelerate(t, tmp_path)
    with made.apply(t.pipe), pytest.raises(ValueError, match="was replaced already"):
        accelerate(t, tmp_path)
    with pytest.raises(ValueError, match=r"for 6 steps"), replace(made).apply(t.pipe):
        t.stock(steps=5)
    t.pipe.to(torch.float64)
    with pytest.raises(ValueError, match=r"dtype=torch\.float64: must be float32"):
        accelerate(t, tmp_path)
