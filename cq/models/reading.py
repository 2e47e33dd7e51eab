"""A part of a model's folder as a module, with every one of its tensors accounted for."""

from pathlib import Path
from typing import Any

from cq.core.failures import out_of_memory
from cq.models.architecture import set_heads
from cq.models.diffusion import UnusableModelError
from cq.models.files import MERGE, first_line, is_adapter, listed, weight_files
from cq.models.stored import first_stage_kind, subfolder


def read_module(kind: Any, weights: str, name: str) -> Any:
    """A diffusers or transformers module of a model's folder, in float32, for inference.

    Raises UnusableModelError where the files lack a tensor of the network, hold one that it has no place for or one of
    another shape, or one that is not finite: whoever loads them would draw at random what is missing.
    """
    folder = subfolder(weights, name)
    found = weight_files(folder)
    options: dict[str, Any] = {} if found is None else {"variant": found.variant, "use_safetensors": found.safetensors}
    try:
        part, info = kind.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **options
        )
    except Exception as error:  # of diffusers, transformers, safetensors or pickle: each has its own
        if out_of_memory(error):
            raise
        raise UnusableModelError(
            f"model.weights={weights!r}: its {name} cannot be opened as a {kind.__name__} ({first_line(error)}). Get "
            f"{folder} again, or correct its config.json."
        ) from error
    unread = {name for name, tensor in part.state_dict().items() if tensor.is_meta}  # in the index, but in no shard
    info["missing_keys"] = unread.union(info["missing_keys"])
    _account(info, kind, f"model.weights={weights!r}: its {name}", folder)
    part = part.float().eval().requires_grad_(False)
    broken = [key for key, tensor in part.named_parameters() if not bool(tensor.isfinite().all())]
    if broken:
        raise UnusableModelError(
            f"model.weights={weights!r}: its {name} has values that are not finite in {listed(broken)}. Get {folder} "
            "again, from before it was made half as wide or trained until it broke."
        )
    if kind.__name__ == "UNet2DModel":
        set_heads(part)
    return part


def _account(info: dict[str, Any], kind: Any, where: str, folder: Path) -> None:
    missing, extra, other = (list(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    told = [f"lacks {listed(missing)}"] if missing else []
    told += [f"has {listed(extra)}, which a {kind.__name__} of its config.json has no place for"] if extra else []
    for key, stored, built in other[:2]:
        told.append(f"has {key!r} of shape {list(stored)} where its config.json asks for {list(built)}")
    told += [] if len(other) < 3 else [f"{len(other) - 2} more shapes are wrong"]
    told += [str(message) for message in info["error_msgs"] or ()]
    if told:
        adapted = any(map(is_adapter, map(str, extra)))
        remedy = MERGE if adapted else f"Get {folder} again, or correct its config.json"
        raise UnusableModelError(f"{where} {'; it '.join(told)}. {remedy}.")


def read_first_stage(weights: str) -> Any:
    """The first stage in folder `vae`: AutoencoderKL or VQModel, whose decode quantizes first as LDM's does."""
    import diffusers

    return read_module(getattr(diffusers, first_stage_kind(weights)), weights, "vae")


def read_tokenizer(kind: Any, weights: str, name: str, encoder: Any) -> Any:
    """A tokenizer of a model's folder. Raises UnusableModelError where the text encoder lacks some of its tokens."""
    folder = subfolder(weights, name)
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        highest = max(tokenizer.get_vocab().values())
        tokenizer("a prompt, and a sign: \u2603")
    except Exception as error:  # as above
        raise UnusableModelError(
            f"model.weights={weights!r}: its {name} cannot be opened as a {kind.__name__} ({first_line(error)}). Get "
            f"{folder} again."
        ) from error
    rows = int(encoder.config.vocab_size)
    if highest >= rows:
        raise UnusableModelError(
            f"model.weights={weights!r}: its {name} makes tokens up to {highest}, and the text encoder knows {rows}. "
            "They are of two models, or an embedding that was added is missing: give the folder of one."
        )
    longest = getattr(encoder.config, "max_position_embeddings", None)
    length = tokenizer.model_max_length
    if longest is not None and not (isinstance(length, int) and 0 < length <= longest):
        raise UnusableModelError(
            f"model.weights={weights!r}: its {name} makes {length} tokens of a prompt (model_max_length), and the "
            f"text encoder takes {longest}. Set model_max_length in {folder / 'tokenizer_config.json'} to that."
        )
    return tokenizer
