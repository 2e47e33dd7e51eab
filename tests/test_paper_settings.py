"""The published models' resolved configuration against the paper's settings, value by value.

The configuration is that of the command of the model in experiments/published.md. The values are those of the
specification's 2.3, 3.6, 4.1, 4.2, 5.1 to 5.4 and 7, written here a second time. A value that is not taken over stands
in DIFFERS with the reason, and a reason that does not hold any more is an error.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from omegaconf import DictConfig, OmegaConf

from cq.models.architecture import architecture
from cq.run.building import build
from tests.paper_runs import command_of
from tests.tiny_runs import composed

PROTOCOL = {
    "ddpm_cifar10": "cifar10_50k", "ldm_bedroom256": "lsun_bedroom_50k", "ldm_church256": "lsun_church_50k",
    "ldm_imagenet256": "imagenet256_50k", "sd_v1_4": "coco5k_256",
}  # fmt: skip
MODELS = tuple(PROTOCOL)
OWN = {"ldm_imagenet256": ["budget.cache_interval=20"]}  # its row there is Table 2's, at N = 5; 20 is the default
SEED = "seed=1243"  # a legal number here, too; its noise is another, for every image has a seed of its own
SCALED, LINEAR = "scaled_linear", "linear"
PAPER: dict[str, dict[str, Any]] = {
    "ddpm_cifar10": {
        "model.site": "up_blocks.2.resnets.2", "model.image_shape": [3, 32, 32],
        "model.release.beta_schedule": LINEAR, "model.release.beta_start": 1e-4, "model.release.beta_end": 0.02,
        "model.release.set_alpha_to_one": True, "model.release.steps_offset": 0, "sampler.distinct": False,
    },
    "ldm_bedroom256": {
        "model.site": "up_blocks.3.resnets.2", "model.latent_shape": [3, 64, 64],
        "model.release.ema": False, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0195,
    },
    "ldm_church256": {
        "model.site": "up_blocks.4.resnets.2", "model.latent_shape": [4, 32, 32],
        "model.release.ema": True, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0155,
    },
    "ldm_imagenet256": {
        "model.site": "up_blocks.3.resnets.2", "model.latent_shape": [3, 64, 64],
        "model.num_classes": 1000, "model.release.beta_start": 0.0015, "model.release.beta_end": 0.0195,
    },
    "sd_v1_4": {
        "model.site": "up_blocks.3.resnets.2", "model.latent_shape": [4, 64, 64],
        "model.release.beta_start": 0.00085, "model.release.beta_end": 0.012,
    },
}  # fmt: skip
LDM = {"beta_schedule": SCALED, "steps_offset": 1, "set_alpha_to_one": False}
for _name in PAPER.keys() - {"ddpm_cifar10"}:
    PAPER[_name] |= {f"model.release.{key}": value for key, value in LDM.items()}
METHOD = {
    "quantize.edge_bits": 8, "quantize.per_call": True, "quantize.split": True,
    "quantize.attention": True, "quantize.weight_observer.power": 2.4, "quantize.weight_observer.candidates": 40,
    "quantize.weight_observer.step": 0.02, "quantize.act_observer.power": 2.4,
    "quantize.act_observer.candidates": 40, "quantize.act_observer.step": 0.02, "quantize.exclude": [],
    "cost._target_": "cq.cost.l1.L1", "schedule._target_": "cq.schedule.dps.DPS", "model.release.clip_sample": False,
    "correct.cache._target_": "cq.correct.channel_affine.ChannelAffineFit",
    "correct.quant._target_": "cq.correct.channel_affine.ChannelAffineFit", "predict._target_": "cq.predict.last.Last",
}  # fmt: skip


def resolved(arguments: list[str]) -> DictConfig:
    document = OmegaConf.create(OmegaConf.to_container(composed(arguments)[0], resolve=True))
    assert isinstance(document, DictConfig)
    return document


def whole_method(model: str) -> DictConfig:
    return resolved([*command_of(model, PROTOCOL[model]), *OWN.get(model, []), SEED])


def with_reconstruction(model: str) -> DictConfig:
    numbers = {
        "ddpm_cifar10": ["quantize.base.batch_size=64"],
        "ldm_bedroom256": ["quantize.scale_learning_rate=1e-7"],
        "ldm_church256": ["quantize.scale_learning_rate=1e-6"],
        "sd_v1_4": ["quantize.num_states=512", "quantize.batch_rows=4", "quantize.base.batch_size=2"],
    }
    kept = [argument for argument in command_of(model, PROTOCOL[model]) if not argument.startswith("quantize.")]
    chosen = ["correct@correct.quant=none", "quantize=reconstruct_paper", *numbers.get(model, [])]
    return resolved([*kept, *chosen])


class Row(NamedTuple):
    """told: of the specification, in the order of MODELS. found: in a configuration; None where there is no key."""

    told: tuple[Any, ...]
    found: Callable[[DictConfig], Any] | None


def key(name: str) -> Callable[[DictConfig], Any]:
    return lambda config: OmegaConf.select(config, name)


def all_of(value: Any) -> tuple[Any, ...]:
    return (value,) * len(MODELS)


def calls(config: DictConfig) -> int:
    found: int = build(config.sampler, "sampler").num_calls(config.budget.num_steps)
    return found


def refreshes(config: DictConfig) -> int:
    found: int = build(config.schedule, "schedule").bounds(calls(config)).num_groups
    return found


def points(config: DictConfig) -> int:
    """Trajectories x positions of the map that is cached x halves of guidance."""
    _, high, wide = config.model.get("latent_shape", config.model.image_shape)
    guided = 2 if config.model.get("guidance") else 1
    above = 2 if config.model.site == "up_blocks.2.resnets.2" else 1  # the cut of CIFAR-10 lies a level deeper
    found: int = config.calibrate.num_samples * (high // above) * (wide // above) * guided
    return found


def each_class(config: DictConfig) -> int | None:
    return config.sample.num_images // classes if (classes := config.model.get("num_classes")) else None


SETTINGS: Mapping[str, Row] = {  # specification 4.2 from top to bottom, and what 2.3 and 3.6 add
    "sampler": Row(
        ("QuadraticDDIM", "DDIM", "DDIM", "DDIM", "PLMS"), lambda config: config.sampler._target_.rpartition(".")[2]
    ),
    "steps": Row((100, 100, 100, 250, 50), key("budget.num_steps")),
    "calls": Row((100, 100, 100, 250, 51), calls),
    "eta": Row(all_of(0), key("protocol.eta")),
    "guidance scale": Row((None, None, None, 1.5, 7.5), key("model.guidance")),
    "default N": Row((10, 2, 2, 20, 5), key("schedule.interval")),
    "full calls": Row((10, 50, 50, 13, 10), refreshes),
    "DPS default": Row(
        (False, False, False, True, True), lambda config: config.schedule._target_ == "cq.schedule.dps.DPS"
    ),
    "weight bits": Row(all_of(8), key("quantize.weight_bits")),
    "activation bits": Row(all_of(8), key("quantize.act_bits")),
    "softmax-output bits": Row(all_of(8), key("quantize.softmax_bits")),
    "calibration trajectories": Row((512, 256, 512, 64, 256), None),
    "batch of calibration trajectories": Row((128, 32, 32, 32, 4), None),
    "samples kept per full call": Row((64, 64, 64, 32, 32), key("quantize.num_samples")),
    "samples kept per cached call": Row((32, 32, 32, 8, 8), key("quantize.num_samples")),
    "activation-init batch": Row((256, 256, 256, 16, 4), key("quantize.batch_size")),
    "DPS batch": Row((128, 32, 32, 8, 8), key("calibrate.num_samples")),
    "DEC batch, cache": Row((512, 128, 128, 32, 32), key("calibrate.num_samples")),
    "DEC batch, quantization": Row((512, 128, 128, 32, 32), key("quantize.num_samples")),
    "regression points per channel": Row((131_072, 524_288, 131_072, 262_144, 262_144), points),
    "seed": Row(all_of(1243), key("seed")),
    "evaluation images": Row((50_000, 50_000, 50_000, 50_000, 5000), key("sample.num_images")),
    "evaluation batch": Row((500, 50, 50, 50, 4), key("sample.batch_size")),
    "labels": Row(all_of("balanced"), key("sample.labels")),
    "images of a class": Row((None, None, None, 50, None), each_class),
    "one class per batch": Row(all_of(True), None),
    "Parti images": Row((None, None, None, None, 1624), None),
}
RECONSTRUCTION: Mapping[str, Row] = {  # the rest of 4.2, and 7
    "output correction": Row(all_of(False), lambda config: "fit" in config.correct.quant._target_.lower()),
    "samples": Row((1024, 1024, 1024, 1024, 512), key("quantize.num_states")),
    "iterations": Row(all_of(3000), key("quantize.iterations")),
    "batch": Row((32, 32, 32, 32, 4), key("quantize.batch_rows")),
    "feature-collection batch": Row((64, 32, 32, 32, 2), key("quantize.base.batch_size")),
    "lr_w": Row((5e-1, 5e-7, 5e-3, 5e-3, 1e-3), key("quantize.learning_rate")),
    "lr_a": Row((1e-4, 1e-7, 1e-6, 1e-4, 1e-4), key("quantize.scale_learning_rate")),
    "lr_z": Row((1e-1, 0, 1e-1, 1e-1, 0), None),
    "lr_rw": Row((1e-6, 1e-4, 1e-3, 1e-2, 1e-3), None),
    "scales learned": Row(all_of("per_call"), key("quantize.learned_scales")),
    "quantized-input probability": Row((1.0, 0.5, 1.0, 1.0, 1.0), None),
    "element-wise keep probability": Row((1.0, 0.5, 1.0, 1.0, 1.0), None),
    "units": Row(all_of("block"), key("quantize.units")),
    "targets": Row(all_of("full"), key("quantize.targets")),
    "regulariser's weight": Row(all_of(0.01), key("quantize.regulariser")),
    "temperature": Row(all_of([20, 2]), lambda config: list(config.quantize.beta)),
    "warm-up": Row(all_of(0.2), key("quantize.warm_up")),
    "exponent of the reconstruction loss": Row(all_of(2), None),
    "decay of learning rates": Row(all_of("cosine"), None),
}
UNGUIDED, GUIDED = MODELS[:3], MODELS[3:]
DIFFERS: Mapping[str, tuple[tuple[str, ...], str]] = {  # row to the models, and why
    "DPS default": (
        UNGUIDED,
        "the release's default is off here, and which setting gave the published numbers is not known (3.5); the row "
        "is the whole method, and schedule=uniform is the other",
    ),
    "calibration trajectories": (
        MODELS,
        "no key: the release draws a pool and keeps a random part of it at each call; here every trajectory that is "
        "drawn is kept at every call",
    ),
    "batch of calibration trajectories": (MODELS, "no key: there is no such pool"),
    "samples kept per full call": (
        UNGUIDED,
        "one number serves activation ranges and DEC's output correction; it is the larger of the two, which is DEC's",
    ),
    "samples kept per cached call": (MODELS, "one number serves all calls; it is never less than the release's"),
    "activation-init batch": (
        UNGUIDED,
        "of no consequence: all samples of a call are pooled before its range is searched, where the release averages "
        "over batches (5.4); the release caps this number itself",
    ),
    "DPS batch": (MODELS, "one pass serves DPS and DEC's cache correction; it has as many trajectories as DEC's"),
    "one class per batch": (
        MODELS,
        "no key: image i is of class i modulo the classes and drawn from seed i, so that every prefix is balanced; "
        "which images share a batch changes none of them",
    ),
    "Parti images": (
        MODELS,
        "of another protocol, `parti`: the official 1,632 prompts, of which the release's list lacks six, and its "
        "batches of 4 drop two",
    ),
    "lr_w": (
        MODELS,
        "the release has no working regulariser and lets this rate fall to zero, and in its last zone steps float "
        "weights with it; here the rounding alone is learned, at AdaRound's constant rate under its regulariser",
    ),
    "lr_z": (MODELS, "no key: zero points stay the base quantizer's"),
    "lr_rw": (MODELS, "no key: float weights and biases are not trained"),
    "quantized-input probability": (MODELS, "no key: inputs always are those of the quantized network, as if 1"),
    "element-wise keep probability": (MODELS, "no key: nothing is dropped, as if 1"),
    "regulariser's weight": (
        MODELS,
        "dead in the release (7.4); here it works, beside an error in units of nearest rounding's, which is another "
        "scale",
    ),
    "exponent of the reconstruction loss": (MODELS, "no key, and dead in the release (7.4); both take squared errors"),
    "decay of learning rates": (MODELS, "no key: the scales' rate falls on a cosine, too; the rounding's does not"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_resolved_configuration_is_the_papers(name: str) -> None:
    config = whole_method(name)
    told = {**METHOD, **PAPER[name]}
    found = {key: OmegaConf.select(config, key) for key in told}
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in found.items()}
    assert plain == told


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("rows", "configure"), [(SETTINGS, whole_method), (RECONSTRUCTION, with_reconstruction)], ids=["method", "recon"]
)
def test_every_value_of_the_defaults_table_is_taken_over_or_says_why_not(
    rows: Mapping[str, Row], configure: Callable[[str], DictConfig], name: str
) -> None:
    config = configure(name)
    kept, dropped = {}, {}
    for label, row in rows.items():
        models, _ = DIFFERS.get(label, ((), ""))
        told = row.told[MODELS.index(name)]
        if name not in models:
            assert row.found is not None, label
            kept[label] = (row.found(config), told)
        elif row.found is not None:
            dropped[label] = (row.found(config), told)
    assert {label: found for label, (found, told) in kept.items() if found != told} == {}
    assert [label for label, (found, told) in dropped.items() if found == told] == []  # and its reason is stale


def test_every_reason_belongs_to_a_row_and_every_row_has_a_value_for_every_model() -> None:
    rows = {**SETTINGS, **RECONSTRUCTION}
    assert len(rows) == len(SETTINGS) + len(RECONSTRUCTION)
    assert DIFFERS.keys() <= rows.keys()
    assert all(len(row.told) == len(MODELS) for row in rows.values())
    assert all(len(reason) > 20 for _, reason in DIFFERS.values())


def test_eta_is_zero_and_calls_are_counted_as_in_the_paper() -> None:
    """eta is no key: the samplers are deterministic."""
    config = whole_method("ldm_imagenet256")
    scheduler = build(config.sampler, "sampler").noise_scheduler(architecture("ldm_imagenet256")["scheduler"], 250)
    assert scheduler.timesteps.tolist() == [1 + 4 * i for i in reversed(range(250))]
    assert float(scheduler.final_alpha_cumprod) == float(scheduler.alphas_cumprod[0])


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
