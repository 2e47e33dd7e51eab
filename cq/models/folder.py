"""A model's folder in diffusers' layout, as a whole: whether it is there, its noise schedule, its digest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cq.core.checksum import file_digest
from cq.models.files import check_no_adapter, check_tokenizer, check_weights, weight_files
from cq.models.locate import HUB, locate
from cq.models.release import Release
from cq.models.stored import check_index, subfolder, subfolder_config


def stored_noise(weights: str, release: Release | None) -> Mapping[str, Any]:
    """The stored scheduler's configuration; sampled from as `release` says. Raises ValueError where it has no class."""
    stored = subfolder_config(weights, "scheduler")
    if "_class_name" not in stored:
        raise ValueError(
            f"model.weights={weights!r}: its scheduler_config.json has no _class_name, without which nobody knows what "
            "a key means that is not stored. Write it there, as in model_index.json."
        )
    return stored if release is None else release.noise(stored)


def check_folder(
    weights: str, folders: tuple[str, ...], release: Release | None, *, pipelines: tuple[str, ...]
) -> None:
    """Raise ValueError where the model's folder, or a file of one of its `folders`, is missing or no such model's.

    pipelines: of diffusers, as model_index.json may name them. release: what it must be, if anything.
    """
    remedy = "" if release is None else f" {release.how_to_get_it}"
    try:
        folder = locate(weights)
    except ValueError as error:
        raise ValueError(f"model.weights={error}{remedy}") from error
    absent = [name for name in folders if not subfolder(weights, name).is_dir()]
    if absent:
        raise ValueError(
            f"model.weights={weights!r}: there is no {' and no '.join(absent)} in {folder}. Give a folder in "
            f"diffusers' layout, with {', '.join(folders)}.{remedy}"
        )
    check_index(weights, pipelines, folders)
    networks = [name for name in folders if name != "scheduler" and not name.startswith("tokenizer")]
    for name in networks:
        if subfolder_config(weights, name).get("quantization_config") is not None:
            raise ValueError(
                f"model.weights={weights!r}: its {name} is stored quantized (quantization_config), and networks are "
                "quantized here from full precision. Give the folder that it was made of."
            )
    try:
        check_no_adapter(folder)
        for name in folders:
            if name in networks:
                check_weights(subfolder(weights, name))
            elif name != "scheduler":
                check_tokenizer(subfolder(weights, name))
    except ValueError as error:
        raise ValueError(f"model.weights={weights!r}: {error}") from error
    if release is not None:
        release.check(subfolder_config(weights, "scheduler"))
        release.check_converted(folder)


def folder_digest(weights: str) -> str:
    """SHA-256 over the names and bytes of every file of the model's folder."""
    digest = hashlib.sha256()
    folder = locate(weights)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if weights.startswith(HUB) and not _decides(path):
            continue
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def _decides(path: Path) -> bool:
    """Whether a hub's file is part of the model: not its documents, nor what diffusers would not open."""
    if path.suffix in (".bin", ".safetensors"):
        opened = weight_files(path.parent)
        return opened is not None and path in opened.paths
    return path.suffix in (".json", ".txt", ".model")
