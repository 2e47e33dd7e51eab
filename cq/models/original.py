"""Latent diffusion checkpoints as they were released (LDM, arXiv:2112.10752), as modules of diffusers.

The names are those of diffusers' own converters wherever these know them; what they do not know is converted here:
one projection for query, key and value, and residual blocks that resample. Every key of a checkpoint ends up in
exactly one parameter, is checked against the noise schedule, or is an error.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    update_unet_resnet_ldm_to_diffusers,
)
from torch import Tensor, nn

from cq.models.architecture import Architecture, build_module
from cq.models.files import listed

State = dict[str, Tensor]
Names = dict[str, str]  # a parameter of diffusers' module to the key of the checkpoint that it is made of

UNET, FIRST_STAGE, CONDITION, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
THIRDS = ("to_q", "to_k", "to_v")  # of one projection, head by head
OF_THE_SCHEDULE = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
}  # fmt: skip
OF_TRAINING = {"logvar", f"{EMA}decay", f"{EMA}num_updates"}
CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


class _Filed:
    """Stands for the class under which Lightning files a callback's state: a name that nothing is ever made of."""


def read_checkpoint(path: Path) -> State:
    """The tensors under `state_dict`. Raises ValueError for a file that is none or that holds more than data."""
    try:
        with torch.serialization.safe_globals([(_Filed, CALLBACK)]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint={path}: is no checkpoint of plain tensors. What a file wants "
            "to execute is never executed; get it from its publisher again."
        ) from error
    except Exception as error:  # what is no checkpoint breaks the reader wherever it will
        raise ValueError(f"checkpoint={path}: cannot be read ({type(error).__name__}). Download it again.") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"checkpoint={path}: has no tensors under 'state_dict'. Give an original LDM checkpoint.")
    return state


def convert(state: State, folders: Architecture, *, ema: bool) -> dict[str, Any]:
    """The modules of a model's folder, with the weights of `state`.

    ema: take the averaged weights of the denoiser instead of the trained ones. Raises ValueError, with their names,
    for keys that are left over or missing, and for a noise schedule other than that of `folders`.
    """
    state = dict(state)
    unet = {key: state.pop(key) for key in list(state) if key.startswith(UNET)}
    unet_names = _unet_names(unet, folders["unet"])
    _checked(folders["unet"], unet, unet_names)  # before the averaged weights, which are known by these names
    _take_ema(state, unet, ema=ema)
    _check_schedule(state, folders["scheduler"])
    first_stage = dict(folders["vae"])
    if first_stage["scaling_factor"] is None:
        if "scale_factor" not in state:
            raise ValueError("the checkpoint has no 'scale_factor', which this model's first stage is scaled by.")
        first_stage["scaling_factor"] = float(state.pop("scale_factor"))
    vae = {key: state.pop(key) for key in list(state) if key.startswith(FIRST_STAGE)}
    made = {
        "unet": _filled(folders["unet"], unet, unet_names),
        "vae": _filled(first_stage, vae, _first_stage_names(vae, first_stage)),
        "scheduler": build_module(folders["scheduler"]),
    }
    if "class_embedder" in folders:
        embedder = {key: state.pop(key) for key in list(state) if key.startswith(CONDITION)}
        names = {key.removeprefix(CONDITION): key for key in embedder}
        made["class_embedder"] = _filled(folders["class_embedder"], embedder, names)
    left = sorted(set(state) - OF_TRAINING)
    if left:
        raise ValueError(f"the checkpoint has {listed(left)}, and this model has no use for it. Is it another model?")
    return made


def _take_ema(state: State, unet: State, *, ema: bool) -> None:
    """Take the averaged weights out of `state`, and into `unet`; they are stored under names without dots."""
    names = {EMA + key.removeprefix("model.").replace(".", ""): key for key in unet}
    averaged = {key for key in state if key.startswith(EMA)} - OF_TRAINING
    if averaged or ema:
        missing, left = sorted(set(names) - averaged), sorted(averaged - set(names))
        if not averaged:
            raise ValueError("release.ema=true: the checkpoint holds no averaged weights. Set release.ema=false.")
        if missing or left:
            raise ValueError(f"the averaged weights lack {listed(missing)} and have {listed(left)} too many.")
    for name in averaged:
        value = state.pop(name)
        if ema:
            unet[names[name]] = value


def _check_schedule(state: State, config: Mapping[str, Any]) -> None:
    missing = sorted(OF_THE_SCHEDULE - set(state))
    if missing:
        raise ValueError(f"the checkpoint lacks {listed(missing)} of its noise schedule. Is it an original one?")
    expected = build_module(config).alphas_cumprod
    found = state["alphas_cumprod"]
    if found.shape != expected.shape or not torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=1e-7):
        raise ValueError(
            f"alphas_cumprod: the checkpoint's noise schedule ends at {float(found.flatten()[-1]):.4g} and that of "
            f"this model, beta {config['beta_start']} to {config['beta_end']}, at {float(expected[-1]):.4g}. "
            "Is it another model's checkpoint?"
        )
    for name in OF_THE_SCHEDULE:
        del state[name]


def _unet_names(state: State, config: Mapping[str, Any]) -> Names:
    names = _asked(lambda marks: convert_ldm_unet_checkpoint(marks, config), state)
    if config["_class_name"] != "UNet2DModel":
        return names
    last = config["layers_per_block"]
    out: Names = {}
    for name, key in names.items():
        renamed = re.sub(rf"(down_blocks\.\d+)\.resnets\.{last}\.", r"\1.downsamplers.0.", name)
        if re.search(r"\.attentions\.\d+\.(in_layers|emb_layers|out_layers)\.", renamed):
            continue  # a residual block in the place of an attention: see below
        renamed = re.sub(r"(attentions\.\d+)\.norm\.", r"\1.group_norm.", renamed)
        renamed = re.sub(r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0.", renamed)
        if ".qkv." in renamed:
            out |= {renamed.replace("qkv", third): key for third in THIRDS}
        else:
            out[renamed] = key
    for key in state:
        match = re.match(r"(output_blocks\.(\d+)\.[12])\.(in_layers|emb_layers|out_layers)\.", key.removeprefix(UNET))
        if match:
            old, new = match[1], f"up_blocks.{int(match[2]) // (last + 1)}.upsamplers.0"
            name = key.removeprefix(UNET)
            renamed_block: dict[str, Any] = {}
            update_unet_resnet_ldm_to_diffusers([name], renamed_block, {name: key}, {"old": old, "new": new})
            out |= renamed_block
    return out


def _first_stage_names(state: State, config: Mapping[str, Any]) -> Names:
    names = _asked(lambda marks: convert_ldm_vae_checkpoint(marks, config), state)
    codebook = "quantize.embedding.weight"  # diffusers' converter is for the other kind of first stage
    return names | ({codebook: FIRST_STAGE + codebook} if FIRST_STAGE + codebook in state else {})


def _asked(converter: Any, state: State) -> Names:
    """Which key a converter makes each parameter of, found out with empty tensors."""
    marks = {key: torch.empty(value.shape, device="meta") for key, value in state.items()}
    key_of = {id(mark): key for key, mark in marks.items()}
    try:
        converted = converter(marks)
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]!r}.") from error
    return {
        name: key_of[id(mark) if id(mark) in key_of else id(mark._base)]
        for name, mark in converted.items()
        if mark is not None
    }


def _checked(config: Mapping[str, Any], state: State, names: Names) -> nn.Module:
    """The part of `config` without weights; ValueError unless keys and parameters go up evenly."""
    with torch.device("meta"):  # nothing is drawn that would be overwritten
        module: nn.Module = build_module(config)
    expected = module.state_dict()
    missing = [_original(name, names) for name in sorted(set(expected) - set(names))]
    left = sorted({*(set(state) - set(names.values())), *(names[name] for name in set(names) - set(expected))})
    if missing or left:
        told = [f"lacks {listed(missing)}"] if missing else []
        told += [f"has {listed(left)}, which has no place in it"] if left else []
        raise ValueError(f"{config['_class_name']}: the checkpoint {' and '.join(told)}. Is it another model's?")
    return module


def _filled(config: Mapping[str, Any], state: State, names: Names) -> nn.Module:
    """The part of `config` with its weights. Raises ValueError as `_checked`, and for another shape."""
    module = _checked(config, state, names)
    expected = module.state_dict()
    converted = {name: _shaped(name, key, state[key], expected[name], module) for name, key in names.items()}
    module.load_state_dict(converted, assign=True)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    return module.eval().requires_grad_(False)


def _shaped(name: str, key: str, value: Tensor, parameter: Tensor, module: nn.Module) -> Tensor:
    """A third of a common projection where `name` is one; a convolution of size 1 as a matrix."""
    layer = name.rpartition(".")[0]
    parent, _, last = layer.rpartition(".")
    if last in THIRDS and re.search(r"\.qkv\.(weight|bias)$", key) and len(value) == 3 * len(parameter):
        heads: Any = module.get_submodule(parent).heads
        value = value.view(heads, 3, -1, *value.shape[1:])[:, THIRDS.index(last)].flatten(0, 1).clone()
    if value.squeeze().shape != parameter.squeeze().shape:
        raise ValueError(
            f"{key}: has shape {list(value.shape)} and becomes {name} of shape {list(parameter.shape)}. Is it another "
            "model's checkpoint?"
        )
    return value.reshape(parameter.shape)


def _original(name: str, names: Names) -> str:
    """The checkpoint's name of a missing parameter, by its sibling's; diffusers' own where both are missing."""
    layer, _, kind = name.rpartition(".")
    sibling = names.get(f"{layer}.{'bias' if kind == 'weight' else 'weight'}")
    return f"{sibling.rpartition('.')[0]}.{kind}" if sibling else f"what becomes {name}"
