"""What a model's folder says of a network without loading it: milliseconds, and neither torch nor diffusers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cq.models.files import weight_files
from cq.models.headers import shapes_of
from cq.models.known import check_first_stage, check_network, check_sides, completed
from cq.models.locate import locate
from cq.models.sites import check_blocks, check_cut, cuts_of

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers renames at load
FILES = {"scheduler": "scheduler_config.json"}  # where a part's configuration has a name of its own


def subfolder(weights: str, name: str) -> Path:
    """Where a part lies: a folder of its name, or the model's own folder, as in repositories of one network.

    LDM's own pipeline calls the first stage vqvae.
    """
    folder = locate(weights)
    if name == "vae" and not (folder / name).is_dir() and (folder / "vqvae").is_dir():
        return folder / "vqvae"
    alone = name in ("unet", "scheduler") and (folder / FILES.get(name, "config.json")).is_file()
    return folder if alone and not (folder / name).is_dir() else folder / name


def subfolder_config(weights: str, name: str) -> Mapping[str, Any]:
    """The configuration of a part of the model's folder, its class's own defaults under it.

    Raises ValueError where there is none.
    """
    path = subfolder(weights, name) / FILES.get(name, "config.json")
    stored = read_json(path, f"model.weights={weights!r}")
    try:
        return completed(stored)
    except ValueError as error:
        raise ValueError(f"model.weights={weights!r}: {path} says {error}") from error


def read_json(path: Path, key: str) -> Mapping[str, Any]:
    """What a JSON file of a model's folder says. Raises ValueError, which begins with `key`, where it says nothing."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not a mapping")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{key}: {path} cannot be read ({error}). Give a folder in diffusers' layout.") from error
    return config


def check_index(weights: str, pipelines: tuple[str, ...], folders: tuple[str, ...]) -> None:
    """Raise ValueError where model_index.json says that it is another pipeline's, or lacks one of `folders`."""
    path = locate(weights) / "model_index.json"
    if not path.is_file():
        return
    index = read_json(path, f"model.weights={weights!r}")
    found = index.get("_class_name")
    if found not in pipelines:
        raise ValueError(
            f"model.weights={weights!r}: {path} is of a {found}, and this model component draws as "
            f"{' or '.join(pipelines)} does. Choose another model or folder; if the parts are those of such a "
            "pipeline all the same, say so there (_class_name)."
        )
    absent = [name for name in folders if name in index and (not isinstance(index[name], list) or not index[name][0])]
    if absent:
        raise ValueError(
            f"model.weights={weights!r}: {path} says that there is no {absent[0]}, and this model component needs one. "
            "Choose another model or folder."
        )


def index_setting(weights: str, key: str, default: Any) -> Any:
    """What model_index.json says of `key`; the pipeline's own default where it says nothing."""
    path = locate(weights) / "model_index.json"
    return read_json(path, f"model.weights={weights!r}").get(key, default) if path.is_file() else default


def check_denoiser(
    weights: str, name: str, *, kind: str, latent_shape: tuple[int, int, int], key: str = "model.latent_shape"
) -> None:
    """Raise ValueError where the denoiser in folder `name` is no `kind`, cannot be cut, or takes other inputs.

    key: what the shape of its input is called in the configuration.
    """
    config = subfolder_config(weights, name)
    found = config.get("_class_name")
    if found != kind:
        raise ValueError(
            f"model.weights={weights!r}: its {name} is a {found}, and this model component takes a {kind}. Conditional "
            "U-Nets go with model.num_classes above 0, unconditional ones with 0."
        )
    of_subfolder(weights, name, check_network, config)
    channels = config["in_channels"]
    if latent_shape[0] != channels:
        raise ValueError(
            f"{key}={list(latent_shape)}: the {name} in {weights!r} takes {channels} channels. "
            f"Set it to {[channels, *latent_shape[1:]]}."
        )
    check_sides(config, latent_shape, key)


def of_subfolder(weights: str, name: str, check: Callable[..., None], *given: Any, **options: Any) -> None:
    """Run a check of a part's configuration; what it refuses is told with the file's path in front."""
    path = subfolder(weights, name) / FILES.get(name, "config.json")
    try:
        check(*given, **options)
    except ValueError as error:
        raise ValueError(f"model.weights={weights!r}: {path} says {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"model.weights={weights!r}: {path} describes no network ({type(error).__name__}: {error}). Get it again."
        ) from error


def check_context(weights: str, name: str, *, key: str, made: int | None, by: str) -> None:
    """Raise ValueError where the denoiser attends to states of another width than the `made` that its encoders give.

    by: what gives them, as the message names it.
    """
    taken = subfolder_config(weights, name).get(key)
    if taken != made:
        raise ValueError(
            f"model.weights={weights!r}: its {name} takes text or classes as states of {taken} numbers ({key}), and "
            f"{by} gives {made}. These parts are of two models; give the folder of one."
        )


def check_text_encoder(weights: str, name: str, *, kind: str, width: str) -> int:
    """The width of what a text encoder gives. Raises ValueError for one of another kind.

    kind: transformers' model_type. width: the setting that says the width, 512 where it is not there (CLIP and T5).
    """
    config = subfolder_config(weights, name)
    found = config.get("model_type", config.get("_class_name"))
    if found != kind:
        raise ValueError(
            f"model.weights={weights!r}: its {name} is a {found} ({', '.join(config.get('architectures') or ['?'])}), "
            f"and this model component reads prompts with a {kind}. Choose another model or folder."
        )
    made = config.get(width, 512)
    if type(made) is not int:
        raise ValueError(
            f"model.weights={weights!r}: its {name} says {width}={made!r}, which must be a whole number. Correct its "
            "config.json."
        )
    return made


def check_decoder(
    weights: str, latent_shape: tuple[int, int, int], image_shape: tuple[int, int, int], *, moments: bool = False
) -> None:
    """Raise ValueError where the first stage (vae) does not draw `image_shape` from `latent_shape`.

    moments: whether the model undoes the latents' mean and deviation; see `check_first_stage`.
    """
    config = subfolder_config(weights, "vae")
    first_stage_kind(weights)
    of_subfolder(weights, "vae", check_first_stage, config, moments=moments)
    decodes = config.get("vq_embed_dim") or config["latent_channels"]
    if latent_shape[0] != decodes:
        raise ValueError(
            f"model.latent_shape={list(latent_shape)}: the vae in {weights!r} decodes latents of {decodes} "
            "channels, so it is not the one that this network was trained on. Give the folder of one model."
        )
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    drawn = [config["out_channels"], *(factor * side for side in latent_shape[1:])]
    if list(image_shape) != drawn:
        raise ValueError(
            f"model.image_shape={list(image_shape)}: the vae in {weights!r} draws {drawn} from latents of shape "
            f"{list(latent_shape)}. Set model.image_shape or model.latent_shape accordingly."
        )


def first_stage_kind(weights: str) -> str:
    """The diffusers class of the first stage. Raises ValueError for one that no model here is decoded by."""
    found = str(subfolder_config(weights, "vae").get("_class_name"))
    if found not in ("AutoencoderKL", "VQModel"):
        raise ValueError(
            f"model.weights={weights!r}: its vae is a {found}, and first stages are AutoencoderKL or VQModel. Give "
            "another folder."
        )
    return found


def check_classes(weights: str, name: str, key: str, num_classes: int) -> None:
    """Raise ValueError unless `num_classes` are 1 or more, and no more than the part in folder `name` tells apart."""
    known = subfolder_config(weights, name).get(key)
    if type(known) is not int:
        raise ValueError(
            f"model.weights={weights!r}: its {name} says {key}={known!r}, which must be how many classes it tells "
            "apart. Correct its config.json."
        )
    if not 1 <= num_classes <= known:
        raise ValueError(
            f"model.num_classes={num_classes}: the {name} in {weights!r} knows {known} classes. Set it to 1..{known}."
        )


def num_blocks(weights: str) -> int:
    """How many blocks the model's transformer has, by its configuration."""
    return int(subfolder_config(weights, "transformer")["num_layers"])


def check_site(weights: str, family: str, site: str) -> None:
    """Raise ValueError unless `site` is one of the model's U-Net or transformer, as `family` says."""
    if family == "unet":
        return check_cut(site, cuts_of(subfolder_config(weights, "unet")))
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
    found = weight_files(subfolder(weights, name))
    for path in found.paths if found is not None else ():
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
