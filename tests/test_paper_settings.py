"""The published models' resolved configuration against the paper's settings, value by value.

The values are those of the specification's 3.6, 4.1, 4.2 and 5.1 to 5.4, written here a second time. Numbers of
images and of calibration trajectories belong to a protocol, not to a model, and are compared where that is composed.
"""

from typing import Any

import pytest
from omegaconf import OmegaConf

from cq.config import build
from cq.models.architecture import architecture
from tests.tiny_runs import composed

ROW = "experiment=table2/cachequant_w8a8"  # the whole method; Table 2 is at N = 5, the release's own default is 20
SCALED, LINEAR = "scaled_linear", "linear"
PAPER: dict[str, dict[str, Any]] = {
    "ddpm_cifar10": {
        "model.site": "up_blocks.2.resnets.2", "model.image_shape": [3, 32, 32],
        "model.release.beta_schedule": LINEAR, "model.release.beta_start": 1e-4, "model.release.beta_end": 0.02,
        "model.release.set_alpha_to_one": True, "model.release.steps_offset": 0,
    },
    "ldm_bedroom256": {
        "model.site": "up_blocks.3.resnets.2", "model.guidance": None, "model.latent_shape": [3, 64, 64],
        "model.release.ema": False, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0195,
    },
    "ldm_church256": {
        "model.site": "up_blocks.4.resnets.2", "model.guidance": None, "model.latent_shape": [4, 32, 32],
        "model.release.ema": True, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0155,
    },
    "ldm_imagenet256": {
        "model.site": "up_blocks.3.resnets.2", "model.guidance": 1.5, "model.latent_shape": [3, 64, 64],
        "model.num_classes": 1000, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0195,
    },
    "sd_v1_4": {
        "model.site": "up_blocks.3.resnets.2", "model.guidance": 7.5, "model.latent_shape": [4, 64, 64],
        "model.release.beta_start": 0.00085, "model.release.beta_end": 0.012,
    },
}  # fmt: skip
LDM = {"beta_schedule": SCALED, "steps_offset": 1, "set_alpha_to_one": False}
for _name in PAPER.keys() - {"ddpm_cifar10"}:
    PAPER[_name] |= {f"model.release.{key}": value for key, value in LDM.items()}
METHOD = {
    "quantize.edge_bits": 8, "quantize.softmax_bits": 8, "quantize.per_call": True, "quantize.split": True,
    "quantize.attention": True, "quantize.weight_observer.power": 2.4, "quantize.weight_observer.candidates": 40,
    "quantize.weight_observer.step": 0.02, "quantize.act_observer.power": 2.4,
    "quantize.act_observer.candidates": 40, "quantize.act_observer.step": 0.02, "quantize.exclude": [],
    "cost._target_": "cq.cost.l1.L1", "schedule._target_": "cq.schedule.dps.DPS", "model.release.clip_sample": False,
    "correct.cache._target_": "cq.correct.channel_affine.ChannelAffineFit",
    "correct.quant._target_": "cq.correct.channel_affine.ChannelAffineFit", "predict._target_": "cq.predict.last.Last",
}  # fmt: skip
BUDGET: dict[str, tuple[list[str], dict[str, Any]]] = {
    "ddpm_cifar10": (
        ["sampler=ddim_quadratic", "budget.num_steps=100", "budget.cache_interval=10"],
        {"sampler.distinct": False, "budget.num_steps": 100, "schedule.interval": 10},
    ),
    "ldm_bedroom256": (["budget.num_steps=100", "budget.cache_interval=2"], {"schedule.interval": 2}),
    "ldm_church256": (["budget.num_steps=100", "budget.cache_interval=2"], {"schedule.interval": 2}),
    "ldm_imagenet256": (
        ["budget.cache_interval=20"],  # all else is what the row itself sets
        {
            "budget.num_steps": 250, "sample.num_steps": 250, "schedule.interval": 20, "quantize.weight_bits": 8,
            "quantize.act_bits": 8, "sampler._target_": "cq.sampler.ddim.DDIM",
        },
    ),
    "sd_v1_4": (["sampler=plms", "budget.num_steps=50", "budget.cache_interval=5"], {"schedule.interval": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_resolved_configuration_is_the_papers(name: str) -> None:
    overrides, expected = BUDGET[name]
    config, _ = composed([ROW, f"model={name}", *overrides])
    document = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    told = {**METHOD, **PAPER[name], **expected}
    found = {key: OmegaConf.select(document, key) for key in told}
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in found.items()}
    assert plain == told


def test_eta_is_zero_and_calls_are_counted_as_in_the_paper() -> None:
    """eta is no key: the samplers are deterministic. DPS gets 13 groups of 10 to 40 calls, PLMS makes 51 calls."""
    config, _ = composed([ROW, "model=ldm_imagenet256"])
    scheduler = build(config.sampler, "sampler").noise_scheduler(architecture("ldm_imagenet256")["scheduler"], 250)
    assert scheduler.timesteps.tolist() == [1 + 4 * i for i in reversed(range(250))]
    assert float(scheduler.final_alpha_cumprod) == float(scheduler.alphas_cumprod[0])
    config, _ = composed([ROW, "model=sd_v1_4", "sampler=plms", "budget.num_steps=50", "budget.cache_interval=5"])
    assert build(config.sampler, "sampler").num_calls(50) == 51


@pytest.mark.parametrize(
    ("name", "unet", "vae"),
    [
        ("ddpm_cifar10", [128, 256, 256, 256], None),
        ("ldm_bedroom256", [224, 448, 672, 896], ("VQModel", [128, 256, 512])),
        ("ldm_church256", [192, 384, 384, 768, 768], ("AutoencoderKL", [128, 256, 512, 512])),
        ("ldm_imagenet256", [192, 384, 576, 960], ("VQModel", [128, 256, 512])),
        ("sd_v1", [320, 640, 1280, 1280], ("AutoencoderKL", [128, 256, 512, 512])),
    ],
)
def test_widths_are_the_papers(name: str, unet: list[int], vae: tuple[str, list[int]] | None) -> None:
    parts = architecture(name)
    assert parts["unet"]["block_out_channels"] == unet
    if vae is not None:
        assert (parts["vae"]["_class_name"], parts["vae"]["block_out_channels"]) == vae
