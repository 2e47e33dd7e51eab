"""What a model's folder says of a network without loading it: milliseconds, and neither torch nor diffusers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cq.heads import shapes_of
from cq.models.sites import check_blocks
from cq.zoo.locate import locate

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers renames at load
LEGACY_KINDS = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
FILES = {"scheduler": "scheduler_config.json"}  # where a part's configuration has a name of its own


def part_folder(weights: str, name: str) -> Path:
    """Where a part lies: a folder of its name, or the model's own folder, as in repositories of one network."""
    folder = locate(weights)
    alone = name in ("unet", "scheduler") and (folder / FILES.get(name, "config.json")).is_file()
    return folder if alone and not (folder / name).is_dir() else folder / name


def part_config(weights: str, name: str) -> Mapping[str, Any]:
    """The configuration of a part of the model's folder. Raises ValueError where there is none."""
    path = part_folder(weights, name) / FILES.get(name, "config.json")
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.weights={weights!r}: {path} cannot be read ({error}). Give a folder in diffusers' layout."
        ) from error
    return config


def check_part(weights: str, name: str, *, kind: str, latent_shape: tuple[int, int, int]) -> None:
    """Raise ValueError where the denoiser in folder `name` is no `kind` or takes other latents."""
    config = part_config(weights, name)
    found = config.get("_class_name", kind)
    if found == "Transformer2DModel":  # the one class that several were before diffusers told them apart
        found = LEGACY_KINDS.get(config.get("norm_type", ""), found)
    if found != kind:
        raise ValueError(
            f"model.weights={weights!r}: its {name} is a {found}, and this model component takes a {kind}. Conditional "
            "U-Nets go with model.num_classes above 0, unconditional ones with 0."
        )
    channels = config.get("in_channels", latent_shape[0])
    if latent_shape[0] != channels:
        raise ValueError(
            f"model.latent_shape={list(latent_shape)}: the {name} in {weights!r} takes {channels} channels. "
            f"Set it to {[channels, *latent_shape[1:]]}."
        )


def check_decoder(weights: str, latent_shape: tuple[int, int, int], image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError where the first stage (vae) does not draw `image_shape` from `latent_shape`."""
    config = part_config(weights, "vae")
    first_stage_kind(weights)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    drawn = [config["out_channels"], *(factor * side for side in latent_shape[1:])]
    if list(image_shape) != drawn:
        raise ValueError(
            f"model.image_shape={list(image_shape)}: the vae in {weights!r} draws {drawn} from latents of shape "
            f"{list(latent_shape)}. Set model.image_shape or model.latent_shape accordingly."
        )


def first_stage_kind(weights: str) -> str:
    """The diffusers class of the first stage. Raises ValueError for one that no model here is decoded by."""
    found = str(part_config(weights, "vae").get("_class_name", "AutoencoderKL"))
    if found not in ("AutoencoderKL", "VQModel"):
        raise ValueError(
            f"model.weights={weights!r}: its vae is a {found}, and first stages are AutoencoderKL or VQModel. Give "
            "another folder."
        )
    return found


def check_classes(weights: str, name: str, key: str, num_classes: int) -> None:
    """Raise ValueError unless `num_classes` are 1 or more, and no more than the part in folder `name` tells apart."""
    known = int(part_config(weights, name).get(key, num_classes))
    if not 1 <= num_classes <= known:
        raise ValueError(
            f"model.num_classes={num_classes}: the {name} in {weights!r} knows {known} classes. Set it to 1..{known}."
        )


def num_blocks(weights: str) -> int:
    """How many blocks the model's transformer has, by its configuration."""
    return int(part_config(weights, "transformer").get("num_layers", 28))  # diffusers' own default


def check_block_site(weights: str, site: str) -> None:
    """Raise ValueError unless `site` is one of the model's transformer."""
    try:
        check_blocks((site,), num_blocks(weights))
    except ValueError as error:
        raise ValueError(f"model.{error}") from error


def stored_layers(weights: str, name: str) -> frozenset[str] | None:
    """Names of a network's convolutions, linear layers and attentions, read off the heads of its weight files.

    There may be embeddings among them, whose weights look like a linear layer's. A network built from its
    configuration would name exactly the layers, but importing diffusers for that takes longer than all other checks.
    None where no weights can be read as safetensors; a damaged file is named when it is loaded.
    """
    names: set[str] = set()
    for path in part_folder(weights, name).glob("*.safetensors"):
        shapes = shapes_of(path)
        if shapes is None:
            return None
        for key, shape in shapes.items():
            layer, _, kind = key.rpartition(".")
            if kind != "weight" or len(shape) not in (2, 4):
                continue
            parent, _, last = layer.rpartition(".")
            renamed = f"{parent}.{LEGACY_NAMES[last]}" if last in LEGACY_NAMES else layer
            names |= {layer, renamed}
            if renamed.endswith(".to_q"):
                names.add(renamed.removesuffix(".to_q"))
    return frozenset(names) or None
