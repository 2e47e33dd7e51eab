"""What of diffusers' networks can be cut here: the settings whose values decide it. Needs no torch.

A cached call follows the network's own forward step by step (cq/models/unet.py, dit.py, pixart.py), and the full call
hands it what its conditions are made of. What neither does is refused by the setting that asks for it. Settings that
are not named here are the modules' own business.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

Config = Mapping[str, Any]

_UP_AND_DOWN = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}  # fmt: skip
KNOWN: Mapping[str, Mapping[str, tuple[Any, ...]]] = {  # class to setting to values; each of a list must be among them
    "UNet2DModel": {
        **_UP_AND_DOWN, "mid_block_type": ("UNetMidBlock2D", None), "time_embedding_type": ("positional",),
        "class_embed_type": (None,), "num_class_embeds": (None,),
    },
    "UNet2DConditionModel": {
        "down_block_types": (*_UP_AND_DOWN["down_block_types"], "CrossAttnDownBlock2D"),
        "up_block_types": (*_UP_AND_DOWN["up_block_types"], "CrossAttnUpBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None), "time_embedding_type": ("positional",),
        "class_embed_type": (None,), "num_class_embeds": (None,), "encoder_hid_dim": (None,),
        "encoder_hid_dim_type": (None,), "addition_embed_type": (None, "text_time"), "time_cond_proj_dim": (None,),
        "attention_type": ("default",),
    },
    "DiTTransformer2DModel": {"norm_type": ("ada_norm_zero",)},
    "PixArtTransformer2DModel": {
        "norm_type": ("ada_norm_single",), "use_additional_conditions": (False,), "attention_type": ("default",),
    },
}  # fmt: skip
WHAT = {  # of the settings whose names do not say it
    "time_cond_proj_dim": "the guidance scale is an input of a distilled network (LCM)",
    "use_additional_conditions": "PixArt-alpha's network of 1024 pixels is told size and aspect ratio",
    "num_class_embeds": "the class would be an input beside the timestep",
    "time_embedding_type": "another time embedding goes with noise levels that no sampler here has",
}
DEFAULTS: Mapping[str, Config] = {  # what the classes take where config.json has no such key
    "UNet2DModel": {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D", "time_embedding_type": "positional",
    },
    "UNet2DConditionModel": {
        "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn", "time_embedding_type": "positional",
        "cross_attention_dim": 1280, "attention_type": "default",
    },
    "DiTTransformer2DModel": {
        "in_channels": 4, "out_channels": None, "num_layers": 28, "sample_size": 32, "patch_size": 2,
        "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero",
    },
    "PixArtTransformer2DModel": {
        "in_channels": 4, "out_channels": 8, "num_layers": 28, "sample_size": 128, "patch_size": 2,
        "cross_attention_dim": 1152, "norm_type": "ada_norm_single", "attention_type": "default",
    },
    "AutoencoderKL": {
        "out_channels": 3, "latent_channels": 4, "block_out_channels": (64,), "scaling_factor": 0.18215,
    },
    "VQModel": {
        "out_channels": 3, "latent_channels": 3, "block_out_channels": (64,), "scaling_factor": 0.18215,
    },
}  # fmt: skip
BLOCKS = "block_out_channels"  # as many as a U-Net has levels
LEGACY = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}


def completed(config: Config) -> Config:
    """A stored configuration with its class's defaults for absent keys; the old name of two transformers is resolved.

    Raises ValueError, which begins with the setting, for one that is read here and has another type.
    """
    name = config.get("_class_name") or ""
    if not isinstance(name, str):
        raise ValueError(f"_class_name={name!r}: must be the name of a class of diffusers. Correct it.")
    if name == "Transformer2DModel":  # the one class that several were before diffusers told them apart
        name = LEGACY.get(config.get("norm_type", ""), name)
    defaults = DEFAULTS.get(name, {})
    full = {**defaults, **config, "_class_name": name} if name else dict(config)
    for key, default in defaults.items():
        several = key == "layers_per_block" and isinstance(full[key], list) and len(full[key]) == len(full[BLOCKS])
        if not _fits(full[key], (default,) if several else default):
            kind = "a list" if isinstance(default, tuple) else "a whole number above 0"
            raise ValueError(f"{key}={full[key]!r}: must be {kind}, as {default!r}. Correct it.")
    if name == "PixArtTransformer2DModel" and full.get("use_additional_conditions") is None:
        full["use_additional_conditions"] = full["sample_size"] == 128  # as the class has it
    return full


def _fits(value: Any, default: Any) -> bool:
    """Whether a setting is of the type of its default; what may be null or is one of a few names is looked at later."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and len(value) > 0 and all(_fits(each, default[0]) for each in value)
    if type(default) is int:
        return type(value) is int and value > 0
    return True


def check_network(config: Config) -> None:
    """Raise ValueError for a network of diffusers that cannot be cut, by the first setting that says so.

    config: complete. A message begins with the setting; the caller puts the file's path in front.
    """
    name = config["_class_name"]
    for key, values in KNOWN.get(name, {}).items():
        found = config.get(key)
        for value in found if isinstance(found, list | tuple) and found else [found]:
            plain = value.removeprefix("UNetRes") if isinstance(value, str) else value  # a name that diffusers had
            if not any(plain is known or plain == known for known in values):
                why = f" ({WHAT[key]})" if key in WHAT else ""
                raise ValueError(
                    f"{key}={value!r}: a {name} with it cannot be cut here{why}. Known are "
                    f"{', '.join('null' if known is None else str(known) for known in values)}; give another network."
                )
    taken, made = config["in_channels"], config["out_channels"] or config["in_channels"]
    if made not in (taken, 2 * taken):
        raise ValueError(
            f"in_channels={taken} and out_channels={made}: it draws from more than noise (inpainting takes 9 channels, "
            "depth 5, image editing 8, upscaling 7 for 4 of noise), and only networks that predict the noise of all "
            "they are given are drawn from here. Give the network without the picture: most of these were made of one."
        )


def check_sides(config: Config, shape: tuple[int, int, int], key: str) -> None:
    """Raise ValueError, under `key`, for sides of an input that the network cannot have."""
    name, sides = config["_class_name"], shape[1:]
    step = 1
    if name == "UNet2DModel":  # the conditional one carries the sizes up again
        step = 2 ** (len(config["block_out_channels"]) - 1)
    elif name in LEGACY.values():
        step = config["patch_size"]
    if any(side % step for side in sides):
        raise ValueError(
            f"{key}={list(shape)}: a {name} of these levels or patches takes sides that {step} divides. Set it to "
            f"{[shape[0], *(max(step, side // step * step) for side in sides)]}, or give another network."
        )
    size = config.get("sample_size")
    if name == "DiTTransformer2DModel" and set(sides) != {size}:
        raise ValueError(
            f"{key}={list(shape)}: this transformer is for one size, sample_size={size}. Set it to "
            f"{[shape[0], size, size]}, and model.image_shape accordingly."
        )


def check_first_stage(config: Config, *, moments: bool) -> None:
    """Raise ValueError for a first stage whose latents need more than `scaling_factor` to be decoded.

    moments: whether this pipeline of diffusers undoes `latents_mean` and `latents_std`.
    """
    scale = config["scaling_factor"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not (isfinite(scale) and scale > 0):
        raise ValueError(f"scaling_factor={scale!r}: must be a number above 0. Set it to what it was trained with.")
    shift = config.get("shift_factor")
    if shift:
        raise ValueError(
            f"shift_factor={shift}: diffusers' pipeline of this model would not undo it, so these latents are another "
            "model's. Give the first stage that the network was trained on; if it was without a shift, set it to null."
        )
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        raise ValueError(f"latents_mean={mean}, latents_std={std}: neither counts without the other. Set both or none.")
    if mean is None or std is None:
        return
    if not moments:
        raise ValueError(
            f"latents_mean={mean}: diffusers' pipeline of this model would not undo it, so these latents are another "
            "model's. Give the first stage that the network was trained on; if it was without them, set latents_mean "
            "and latents_std to null."
        )
    if not len(mean) == len(std) == config["latent_channels"]:
        raise ValueError(
            f"latents_mean of {len(mean)} and latents_std of {len(std)} channels: must be latent_channels="
            f"{config['latent_channels']}. Correct them."
        )
