"""The networks of diffusers that an Acceleration can be put on: how each is cut, and how its forward is called.

Legend: N batch as the pipeline passes it (doubled where guided), C channel, H W space, L token.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.acceleration import Acceleration
from cq.engine.fingerprint import DTYPES, parameters_digest
from cq.models.architecture import set_heads
from cq.models.unet import check_xl, is_xl, packed

PLACES = ("unet", "transformer")  # attributes of a pipeline that hold its network
BESIDE = ("controlnet", "adapter")  # networks whose output the pipeline hands to its own
PATCHES = ("forward", "_old_forward", "_hf_hook")  # instance attributes that others, as accelerate's hooks, put there

Given = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class of networks. state: the argument that holds it. condition: takes what it reads out of the arguments."""

    state: str
    condition: Callable[[Any, Given], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a pipeline asks of its network. timestep: one for all."""

    x_NCHW: Tensor
    timestep: Tensor
    cond: Tensor | None
    return_dict: bool


def _text(network: Any, given: Given) -> Tensor:
    context: Tensor = given.pop("encoder_hidden_states")
    added = dict(given.pop("added_cond_kwargs", None) or {})
    if is_xl(network):
        pooled, ids = added.pop("text_embeds"), added.pop("time_ids")
        check_xl(network, pooled, ids.shape[1])
        context = packed(context, pooled, ids)
    given |= {f"added_cond_kwargs.{key}": value for key, value in added.items()}
    return context


def _masked_text(_: Any, given: Given) -> Tensor:
    states: Tensor = given.pop("encoder_hidden_states")
    mask_NL = given.pop("encoder_attention_mask")
    added = given.pop("added_cond_kwargs", None) or {}
    given |= {f"added_cond_kwargs.{key}": value for key, value in added.items()}
    return torch.cat([states, mask_NL[..., None].to(states)], dim=-1)


KINDS: Mapping[str, Kind] = {
    "UNet2DModel": Kind(state="sample", condition=lambda network, given: None),
    "UNet2DConditionModel": Kind(state="sample", condition=_text),
    "DiTTransformer2DModel": Kind(state="hidden_states", condition=lambda network, given: given.pop("class_labels")),
    "PixArtTransformer2DModel": Kind(state="hidden_states", condition=_masked_text),
}


def place_of(pipe: Any, *, may_lack_weights: bool = False) -> str:
    """The attribute of a pipeline that holds its network. Raises ValueError where none can be cut, or it is patched.

    may_lack_weights: whether its parameters may be on the meta device.
    """
    name = next((name for name in PLACES if getattr(pipe, name, None) is not None), None)
    if name is None or not hasattr(pipe, "scheduler"):
        raise ValueError(
            f"pipe={type(pipe).__name__}: has no {' or '.join(PLACES)} with a scheduler. Give a pipeline of diffusers, "
            "such as StableDiffusionPipeline or DiTPipeline."
        )
    beside = next((part for part in BESIDE if getattr(pipe, part, None) is not None), None)
    if beside is not None:
        raise ValueError(
            f"pipe.{beside}={type(getattr(pipe, beside)).__name__}: adds to what the network computes, which a cached "
            "call does not do. Give the pipeline without it."
        )
    network = getattr(pipe, name)
    where = f"pipe.{name}={type(network).__name__}"
    if type(network).__name__ not in KINDS:
        raise ValueError(f"{where}: no such network can be cut. Known are {', '.join(KINDS)}; apply before compiling.")
    if lacks_weights(network) and not may_lack_weights:
        raise ValueError(
            f"{where}: its weights are on no device (sequential offload). Use pipe.enable_model_cpu_offload(), or "
            "pipe.to(device). Where there are none, load an Acceleration that was saved with weights."
        )
    for path, module in network.named_modules():
        patch = module.__dict__.get("forward" if path or "_old_forward" not in module.__dict__ else "_old_forward")
        if patch is not None and getattr(patch, "__func__", None) is not type(module).forward:
            raise ValueError(
                f"{where}: the forward of {path or 'the network'} was replaced already, by another program such as "
                "DeepCache or by an Acceleration. Undo that first; cq.remove(pipe) takes an Acceleration away."
            )
    check_untouched(network, where)
    return name


def lacks_weights(network: Any) -> bool:
    """Whether parameters are on the meta device."""
    return any(tensor.is_meta for tensor in network.parameters())


def origin_of(acceleration: Acceleration) -> Mapping[str, Any]:
    """What it was made from. Raises ValueError for one that does not say it."""
    if not {"model", "sampler"} <= set(acceleration.made_from):
        raise ValueError(
            "made_from: this Acceleration does not say which network it is for. Take one of cq.accelerate, or the "
            "folder that a run of cq names at its end."
        )
    return acceleration.made_from


def check_made_of(network: Any, made: Mapping[str, Any], where: str, *, stored: tuple[str, str] | None = None) -> None:
    """Raise ValueError for a network that an Acceleration was not made of. made: what it says of its model.

    stored: number type and digest of the checkpoint that its weights were made of, where it does not hold that.
    """
    if type(network).__name__ != made["network"]:
        raise ValueError(
            f"{where}={type(network).__name__}: this Acceleration is of a {made['network']}. Give a pipeline "
            "of its model, or make one with cq.accelerate on this pipeline."
        )
    if lacks_weights(network):
        raise ValueError(f"{where}: has no weights, for they are on the meta device. Load its checkpoint.")
    name = str(next(network.parameters()).dtype).removeprefix("torch.")
    asked = made["parameters"].get(name)
    if asked is None or (stored and stored[0] != name):
        known = [stored[0]] if stored else list(made["parameters"])
        raise ValueError(
            f"{where}.dtype={name}: this Acceleration was made of weights in {' or '.join(known)}. Call pipe.to(dtype) "
            "with one of those before apply."
        )
    if (stored[1] if stored else parameters_digest(network, DTYPES[name])) != asked:
        raise ValueError(
            f"{where}: its weights are not those that this Acceleration was made of (another model, another "
            "training, a LoRA). Give a pipeline of its model, or make one with cq.accelerate on this pipeline."
        )


def check_untouched(network: Any, where: str) -> None:
    """Raise ValueError for what diffusers switches on beside the weights, which no digest of them tells."""
    if getattr(network, "peft_config", None):
        raise ValueError(
            f"{where}: has an adapter (LoRA) whose strength is no weight, so that another would not be seen. Call "
            "pipe.fuse_lora() and then pipe.unload_lora_weights(), which leaves it in the weights."
        )
    for block in getattr(network, "up_blocks", ()):
        if any(getattr(block, key, None) is not None for key in ("s1", "s2", "b1", "b2")):
            raise ValueError(f"{where}: FreeU is on, which a cached call does not do. Call pipe.disable_freeu() first.")


def read_call(network: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call of a network's forward. Raises ValueError for an argument that would change numbers and is not known."""
    kind = KINDS[type(network).__name__]
    given: Given = inspect.signature(type(network).forward).bind(network, *args, **kwargs).arguments
    given.pop("self")
    x_NCHW, timestep, return_dict = given.pop(kind.state), given.pop("timestep"), given.pop("return_dict", True)
    cond = kind.condition(network, given)
    for key, value in given.items():
        if value is not None and not (isinstance(value, dict) and not value):
            raise ValueError(
                f"{key}: the pipeline hands this to its network, and an accelerated network knows only the state, the "
                "timestep and the prompt or class. Leave it out (ControlNet, IP-Adapter, LoRA scales and the like), "
                "or take the Acceleration away with cq.remove(pipe)."
            )
    return Call(
        x_NCHW=x_NCHW, timestep=torch.as_tensor(timestep).flatten()[0], cond=cond, return_dict=bool(return_dict)
    )


@contextmanager
def inferring(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No parameter asks for a gradient: by that torch chooses kernels, which round otherwise, without autograd, too."""
    asking = [each for each in parameters if each.requires_grad]
    try:
        for each in asking:
            each.requires_grad_(False)
        yield
    finally:
        for each in asking:
            each.requires_grad_(True)


def shared_copy(network: Any) -> nn.Module:
    """A copy of a network's modules that shares every parameter and buffer with it.

    What stands in the copy (hooks that record, quantized layers) never touches the network, and what happens to its
    tensors, as a move to another device, happens to the copy's.
    """
    shared = {id(held): held for part in network.modules() for held in (part._parameters, part._buffers)}
    shared |= {id(held): held for key in PATCHES if (held := network.__dict__.get(key)) is not None}
    twin: nn.Module = copy.deepcopy(network, shared)
    for key in PATCHES:
        twin.__dict__.pop(key, None)
    for hooks in (twin._forward_hooks, twin._forward_pre_hooks):  # they run around the network's own call
        hooks.clear()
    if type(network).__name__ == "UNet2DModel":
        set_heads(twin)
    return twin


def answered(network: Any, eps_NCHW: Tensor, call: Call) -> Any:
    """What the network's forward returns for a noise prediction; zeros where it would have learned a variance."""
    from diffusers.models.modeling_outputs import Transformer2DModelOutput
    from diffusers.models.unets.unet_2d import UNet2DOutput
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    more = int(network.config.out_channels or eps_NCHW.shape[1]) - eps_NCHW.shape[1]
    out_NCHW = nn.functional.pad(eps_NCHW, (0, 0, 0, 0, 0, more)) if more else eps_NCHW
    out_NCHW = out_NCHW.to(call.x_NCHW.dtype)
    if not call.return_dict:
        return (out_NCHW,)
    kinds = {"UNet2DModel": UNet2DOutput, "UNet2DConditionModel": UNet2DConditionOutput}
    return kinds.get(type(network).__name__, Transformer2DModelOutput)(sample=out_NCHW)
