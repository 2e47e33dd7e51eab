"""An applied Acceleration draws what cq's loop draws, whatever came before, and says no to what it was not made for."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

import cq
from cq.core.acceleration import Acceleration, every_call
from cq.core.contracts import Sampler
from cq.models.unet import UNetCut
from cq.sampler.ddim import DDIM
from cq.sampler.dpmpp import DPMpp
from cq.sampler.euler import Euler
from cq.sampler.plms import PLMS
from experiments.zoo.recipes.diffusion import ldm_noise_scheduler
from tests.adapt.tiny_pipelines import KINDS, STEPS, Tiny
from tests.tiny import tiny_transformer, tiny_vae

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # diffusers hands numpy a tensor

SAMPLERS: dict[str, Sampler] = {"ddim": DDIM(), "plms": PLMS(), "euler": Euler(), "dpmpp": DPMpp()}
NOT = {"ddpm": ("plms", "euler", "dpmpp"), "uncond": ("plms", "euler", "dpmpp"), "dit": ("euler",)}  # take no others
PAIRS = [(family, name) for family in KINDS for name in SAMPLERS if name not in NOT.get(family, ())]


@pytest.fixture
def sd(tiny_folders: dict[str, Path]) -> Tiny:
    return Tiny.of("sd", tiny_folders["sd"], PLMS())


@pytest.mark.parametrize(("family", "sampler"), PAIRS)
def test_the_stock_pipeline_draws_what_cqs_loop_draws_bit_for_bit(
    family: str, sampler: str, tiny_folders: dict[str, Path]
) -> None:
    tiny = Tiny.of(family, tiny_folders[family], SAMPLERS[sampler])
    made = tiny.acceleration()
    tiny.network.requires_grad_(False)  # by which torch chooses its kernels
    assert torch.equal(tiny.stock(), tiny.as_stock(tiny.ours(Acceleration(schedule=every_call(made.num_calls)))))
    tiny.network.requires_grad_(True)
    plain = tiny.stock()
    with made.apply(tiny.pipe):
        drawn = tiny.stock()
    assert torch.equal(drawn, tiny.as_stock(tiny.ours(made)))
    assert not torch.equal(drawn, plain)
    assert torch.equal(tiny.stock(), plain)
    assert all(each.requires_grad for each in tiny.network.parameters() if each.is_floating_point())


def test_a_learned_variance_comes_back_as_zeros(tmp_path: Path) -> None:
    tiny_transformer(out_channels=8).save_pretrained(tmp_path / "transformer")
    tiny_vae(1).save_pretrained(tmp_path / "vae")
    ldm_noise_scheduler().save_pretrained(tmp_path / "scheduler")
    tiny = Tiny.of("dit", tmp_path, DDIM())
    made = tiny.acceleration()
    with made.apply(tiny.pipe):
        assert torch.equal(tiny.stock(), tiny.ours(made))


@pytest.mark.parametrize(
    ("family", "sampler"), [("sd", "plms"), ("dit", "ddim"), ("sdxl", "euler"), ("pixart", "dpmpp")]
)
def test_five_generations_in_a_row_are_five_fresh_ones(
    family: str, sampler: str, tiny_folders: dict[str, Path]
) -> None:
    tiny = Tiny.of(family, tiny_folders[family], SAMPLERS[sampler])
    made = tiny.acceleration()
    asked = [(0, 1), (2,), (5, 4, 3), (1,), (0, 1)]
    with made.apply(tiny.pipe):
        in_a_row = [tiny.stock(seeds) for seeds in asked]
    fresh = []
    for seeds in asked:
        with made.apply(tiny.pipe):
            fresh.append(tiny.stock(seeds))
    assert all(map(torch.equal, in_a_row, fresh))
    assert torch.equal(in_a_row[0], in_a_row[4])


def between(tiny: Tiny, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise after the third step."""
    step, taken = tiny.pipe.scheduler.step, []

    def stops(*args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        if len(taken) == 3:
            raise error
        return step(*args, **kwargs)

    monkeypatch.setattr(tiny.pipe.scheduler, "step", stops)


def inside(tiny: Tiny, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise in the middle of the second cached call."""
    shallow, calls = UNetCut.shallow, []

    def stops(self: UNetCut, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return shallow(self, *args, **kwargs)

    monkeypatch.setattr(UNetCut, "shallow", stops)


@pytest.mark.parametrize("where", [between, inside])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_stops_a_generation_leaves_nothing_behind(
    where: Callable[..., None], error: BaseException, sd: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sd.acceleration()
    plain = sd.stock((2,))
    with made.apply(sd.pipe):
        fresh = sd.stock((2,))
        with monkeypatch.context() as patch:
            where(sd, error, patch)
            with pytest.raises(type(error)):
                sd.stock((0, 1))
        assert torch.equal(sd.stock((2,)), fresh)
    assert torch.equal(sd.stock((2,)), plain)


def test_kept_maps_are_dropped_with_the_last_call(sd: Tiny) -> None:
    applied = sd.acceleration().apply(sd.pipe)
    sd.stock()
    assert applied._generation is None


def test_another_number_of_steps_and_another_scheduler_are_refused(sd: Tiny) -> None:
    made = sd.acceleration()
    with made.apply(sd.pipe):
        with pytest.raises(ValueError, match=f"num_inference_steps=9: this Acceleration is for {STEPS} steps"):
            sd.stock(steps=9)
        for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
            own, sd.pipe.scheduler = sd.pipe.scheduler, kind.from_config(sd.pipe.scheduler.config)
            with pytest.raises(ValueError, match=rf"scheduler={kind.__name__}: .*PNDMScheduler\.from_config"):
                sd.stock()
            sd.pipe.scheduler = own
        sd.pipe.scheduler = type(own).from_config(own.config, timestep_spacing="trailing")
        with pytest.raises(ValueError, match=r"scheduler\.timesteps: call 0 is at"):
            sd.stock()
        for change in ({"beta_end": 0.03}, {"prediction_type": "v_prediction"}):
            sd.pipe.scheduler = type(own).from_config(own.config, **change)
            with pytest.raises(ValueError, match=r"scheduler\.(alphas_cumprod|prediction_type)=.* was made for"):
                sd.stock()
        sd.pipe.scheduler = own
        assert torch.equal(sd.stock(), sd.ours(made))


@pytest.mark.parametrize("sampler", ["ddim", "plms", "euler", "dpmpp"])
def test_image_to_image_is_refused_below_strength_1_and_drawn_at_it(
    sampler: str, tiny_folders: dict[str, Path]
) -> None:
    tiny = Tiny.of("sd", tiny_folders["sd"], SAMPLERS[sampler])
    made = tiny.acceleration()
    pipe = StableDiffusionImg2ImgPipeline(**tiny.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"image": torch.rand(1, 3, 32, 32), "num_inference_steps": STEPS, "output_type": "pt"}

    def drawn(strength: float) -> Tensor:
        found: Tensor = pipe("a cat", strength=strength, generator=torch.Generator().manual_seed(0), **options).images
        return found

    plain = drawn(1.0)
    with made.apply(pipe):
        first = drawn(1.0)
        with pytest.raises(ValueError, match=r"does not begin with call 0.*strength=1"):
            drawn(0.5)
        assert torch.equal(drawn(1.0), first)
    assert not torch.equal(first, plain)


def test_calls_that_are_skipped_repeated_or_of_another_batch_are_refused(sd: Tiny) -> None:
    made = sd.acceleration()
    made.apply(sd.pipe)
    scheduler = sd.pipe.scheduler
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 16)
    scheduler.set_timesteps(STEPS)
    for _ in range(3):  # each from its start
        scheduler.set_timesteps(STEPS)
        times = scheduler.timesteps
        out = sd.pipe.unet(x, times[0], context).sample
        with pytest.raises(ValueError, match="stands elsewhere"):
            sd.pipe.unet(x, times[0] + 1, context)
        with pytest.raises(ValueError, match="call 4 of 7: call 1 is due"):
            sd.pipe.unet(x, times[4], context)
        scheduler.step(out, times[0], x)
        with pytest.raises(ValueError, match=r"the batch changed from \[2, 4, 8, 8\] to \[1, 4, 8, 8\]"):
            sd.pipe.unet(x[:1], times[1], context[:1])
        out = sd.pipe.unet(x, times[1], context).sample
        with pytest.raises(ValueError, match="call 1 of 7: call 2 is due"):
            sd.pipe.unet(x, times[1], context)
        scheduler.step(out, times[1], x)
        scheduler.step(out, times[2], x)
        with pytest.raises(ValueError, match="call 3 of 7: call 2 is due"):
            sd.pipe.unet(x, times[3], context)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("down_block_additional_residuals", (torch.zeros(1),)), ("mid_block_additional_residual", torch.zeros(1)),
        ("cross_attention_kwargs", {"scale": 0.5}), ("added_cond_kwargs", {"image_embeds": [torch.zeros(1)]}),
        ("class_labels", torch.zeros(1)), ("attention_mask", torch.ones(1)), ("timestep_cond", torch.ones(1)),
    ],
)  # fmt: skip
def test_what_would_change_numbers_and_is_not_known_is_refused_by_its_name(key: str, value: Any, sd: Tiny) -> None:
    sd.acceleration().apply(sd.pipe)
    sd.pipe.scheduler.set_timesteps(STEPS)
    with pytest.raises(ValueError, match=rf"^{key}.*cq\.remove"):
        sd.pipe.unet(
            torch.randn(2, 4, 8, 8), sd.pipe.scheduler.timesteps[0], encoder_hidden_states=torch.randn(2, 8, 16),
            **{key: value},
        )  # fmt: skip


def test_both_ways_of_returning_are_honoured(sd: Tiny) -> None:
    sd.acceleration().apply(sd.pipe)
    sd.pipe.scheduler.set_timesteps(STEPS)
    args = torch.randn(2, 4, 8, 8), sd.pipe.scheduler.timesteps[0], torch.randn(2, 8, 16)
    (first,) = sd.pipe.unet(*args, return_dict=False)
    assert torch.equal(sd.pipe.unet(*args).sample, first)


def test_a_pipeline_that_is_patched_already_is_refused(sd: Tiny) -> None:
    made = sd.acceleration()
    made.apply(sd.pipe)
    with pytest.raises(ValueError, match=r"was replaced already.*cq\.remove"):
        made.apply(sd.pipe)
    cq.remove(sd.pipe)
    with pytest.raises(ValueError, match="no Acceleration is applied"):
        cq.remove(sd.pipe)
    block = sd.pipe.unet.down_blocks[0]
    block.forward = lambda *args, **kwargs: None  # as DeepCache's helper does
    with pytest.raises(ValueError, match=r"forward of down_blocks\.0 was replaced"):
        made.apply(sd.pipe)
    del block.forward
    sd.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with pytest.raises(ValueError, match="FreeU is on"):
        made.apply(sd.pipe)
    sd.pipe.disable_freeu()
    with made.apply(sd.pipe):
        sd.stock()
        sd.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        with pytest.raises(ValueError, match="FreeU is on"):
            sd.stock()


def test_what_is_no_pipeline_of_a_known_network_is_refused(sd: Tiny) -> None:
    made = sd.acceleration()
    with pytest.raises(ValueError, match="has no unet or transformer with a scheduler"):
        made.apply(torch.nn.Linear(2, 2))
    sd.pipe.unet = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"pipe\.unet=Linear: no such network can be cut"):
        made.apply(sd.pipe)
    with pytest.raises(ValueError, match="does not say which network it is for"):
        replace(made, made_from={}).apply(sd.pipe)


def test_other_weights_are_refused_before_and_after_it_is_applied(sd: Tiny) -> None:
    made = sd.acceleration()
    with made.apply(sd.pipe), torch.no_grad():
        fresh = sd.stock()
        weight = sd.pipe.unet.conv_out.weight
        weight.mul_(2)
        with pytest.raises(ValueError, match=r"pipe\.unet: its weights are not those"):
            sd.stock()
        weight.div_(2)
        assert torch.equal(sd.stock(), fresh)
        weight.data = weight.data * 2  # as a LoRA is merged
        with pytest.raises(ValueError, match=r"pipe\.unet: its weights are not those"):
            sd.stock()
        weight.data.div_(2)
        assert torch.equal(sd.stock(), fresh)
        sd.pipe.unet.conv_out.weight = torch.nn.Parameter(weight * 3)
        with pytest.raises(ValueError, match=r"pipe\.unet: its weights are not those"):
            sd.stock()
    with pytest.raises(ValueError, match=r"pipe\.unet: its weights are not those"):
        made.apply(sd.pipe)


def test_another_attention_while_it_is_applied_is_used(sd: Tiny) -> None:
    made = sd.acceleration()
    with made.apply(sd.pipe):
        first = sd.stock()
        sd.pipe.unet.set_attn_processor(AttnProcessor())  # which rounds otherwise
        second = sd.stock()
    assert not torch.equal(first, second)
    backbone: Any = sd.model.denoiser.network.backbone
    backbone.set_attn_processor(AttnProcessor())
    assert torch.equal(second, sd.ours(made))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_same_model_before_and_after_it_is_applied(dtype: torch.dtype, sd: Tiny) -> None:
    made = sd.acceleration()
    made.apply(sd.pipe)
    wide = sd.stock()
    sd.pipe.to(dtype)  # while it is applied
    half = sd.stock()
    assert half.dtype == dtype
    assert 0 < float((half.float() - wide).abs().max()) < 0.5
    cq.remove(sd.pipe)
    with made.apply(sd.pipe):
        assert torch.equal(sd.stock(), half)
    sd.pipe.to(torch.float32)  # what was rounded is another model
    with pytest.raises(ValueError, match="its weights are not those"):
        made.apply(sd.pipe)
    sd.pipe.to(torch.float64)
    with pytest.raises(ValueError, match=r"dtype=float64.*float32 or float16 or bfloat16"):
        made.apply(sd.pipe)


def test_the_pipeline_stays_a_stock_one_while_it_is_applied(sd: Tiny, tmp_path: Path) -> None:
    made = sd.acceleration()
    applied = made.apply(sd.pipe)
    drawn = sd.stock()
    assert (sd.pipe.unet.dtype, sd.pipe.unet.device.type) == (torch.float32, "cpu")
    sd.pipe.save_pretrained(tmp_path)
    other = StableDiffusionPipeline.from_pretrained(tmp_path)
    other.set_progress_bar_config(disable=True)
    assert "forward" not in other.unet.__dict__
    own, sd.pipe = sd.pipe, other
    with made.apply(other):
        assert torch.equal(sd.stock(), drawn)
    sd.pipe = own
    applied.remove()


@pytest.mark.parametrize("first", ["hook", "apply"])
def test_offloading_hooks_and_an_acceleration_live_side_by_side(first: str, sd: Tiny) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    moved: list[str] = []

    class Moves(ModelHook):  # type: ignore[misc]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            moved.append("moved")
            return args, kwargs

    made, plain = sd.acceleration(), sd.stock()
    if first == "hook":
        add_hook_to_module(sd.pipe.unet, Moves())
        made.apply(sd.pipe)
    else:
        made.apply(sd.pipe)
        add_hook_to_module(sd.pipe.unet, Moves())
    assert torch.equal(sd.stock(), sd.ours(made))
    assert len(moved) == made.num_calls
    cq.remove(sd.pipe)
    assert torch.equal(sd.stock(), plain)
    assert len(moved) == 2 * made.num_calls
    remove_hook_from_module(sd.pipe.unet)
    assert torch.equal(sd.stock(), plain)


def test_another_guidance_is_allowed_and_said_once(sd: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cq"), sd.acceleration().apply(sd.pipe):
        sd.stock()
        assert not caplog.records
        sd.stock(guidance_scale=3.0)
        sd.stock(guidance_scale=2.0)
        sd.stock(guidance_scale=1.0)  # no guidance at all: half the batch
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["guidance=3.0"]


def test_no_guidance_is_the_same_whatever_says_so(sd: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    made = sd.acceleration()
    unguided = {**made.made_from["model"], "guidance": None}
    with (
        caplog.at_level(logging.WARNING, "cq"),
        replace(made, made_from={**made.made_from, "model": unguided}).apply(sd.pipe),
    ):
        sd.stock(guidance_scale=1.0)
        assert not caplog.records
        sd.stock(guidance_scale=3.0)
    assert "guidance=3.0: this Acceleration was calibrated with None" in caplog.text


def test_importing_cq_brings_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, cq; assert 'torch' not in sys.modules; cq.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        cq.loads  # noqa: B018
