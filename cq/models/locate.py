"""From the way a configuration names a network (`zoo:features`, `hub:ORG/NAME@REVISION`) to its folder."""

import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cq.models.files import weight_files

WEIGHTS = Path(__file__).parents[1] / "zoo" / "weights"  # what ships with the package
SCHEME = "zoo:"
HUB = "hub:"
PACKAGE = "package:"  # an installed one that brings weights
FETCHED = (  # of a hub's repository: every part's configuration and its weights in their plain variant
    "*.json", "*/*.json", "*/*.txt", "*/*.model", "diffusion_pytorch_model.*", "*/diffusion_pytorch_model.*",
    "*/model.safetensors", "*/*-of-*.safetensors", "*/model.safetensors.index.json", "*/pytorch_model.bin",
)  # fmt: skip
HALVES = "*.fp16.*"
NOT_FETCHED = ("safety_checker/*", "feature_extractor/*", "image_encoder/*", "*.msgpack", "*.onnx*", HALVES)


def locate(reference: str) -> Path:
    """The folder that `reference` names: `zoo:NAME` in the packaged zoo, `hub:ORG/NAME@REVISION`, else a local path.

    What a hub's cache holds is taken from there; only what it lacks is downloaded. Raises ValueError where there is no
    such folder.
    """
    if reference.startswith(HUB):
        return _snapshot(reference)
    name = reference.removeprefix(SCHEME)
    if name == reference:
        folder = Path(reference)
        remedy = "Give the path of a folder that exists, or zoo:NAME for a packaged one."
    else:
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"{reference!r}: what follows {SCHEME!r} must be one plain name, as in 'zoo:features'.")
        folder = WEIGHTS / name
        there = ", ".join(sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())) or "none"
        remedy = f"The package holds {there}; of a folder of yours give the path."
    if folder.is_file():
        remedy = "That is a file; an original checkpoint becomes a folder with: cq-convert MODEL FILE FOLDER"
    if not folder.is_dir():
        raise ValueError(f"{reference!r}: there is no folder {folder}. {remedy}")
    return folder


def here(reference: str) -> Path | None:
    """What `locate` would return without a network; a file counts, too, and an installed package.

    None where it is not there.
    """
    if reference.startswith(HUB):
        wanted = _wanted(reference)
        from huggingface_hub.constants import HF_HUB_CACHE

        repository = Path(HF_HUB_CACHE) / f"models--{wanted['repo_id'].replace('/', '--')}"
        return _cached(wanted) if repository.is_dir() else None  # else its code need not be imported
    if reference.startswith(PACKAGE):
        spec = importlib.util.find_spec(reference.removeprefix(PACKAGE))
        return None if spec is None or spec.origin is None else Path(spec.origin).parent
    name = reference.removeprefix(SCHEME)
    path = Path(reference) if name == reference else WEIGHTS / name
    return path if path.exists() else None


def _wanted(reference: str) -> dict[str, Any]:
    """The arguments of the hub's download."""
    match = re.fullmatch(rf"{HUB}(\w[\w.-]*/\w[\w.-]*)@([\w./-]+)", reference)
    if match is None:
        raise ValueError(f"{reference!r}: must be hub:ORG/NAME@REVISION, as in 'hub:google/ddpm-cifar10-32@main'.")
    return {
        "repo_id": match[1],
        "revision": match[2],
        "allow_patterns": list(FETCHED),
        "ignore_patterns": list(NOT_FETCHED),
    }


def _cached(wanted: Mapping[str, Any]) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return cached if _is_whole(cached) else None


@cache
def _snapshot(reference: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = _wanted(reference)
    if (cached := _cached(wanted)) is not None:
        return cached
    try:
        fetched = Path(snapshot_download(**wanted))
        if (fetched / "model_index.json").is_file() and not _is_whole(fetched):  # half-precision alone
            wanted["allow_patterns"] += [f"*/{HALVES}"]
            wanted["ignore_patterns"].remove(HALVES)
            fetched = Path(snapshot_download(**wanted))
        return fetched
    except Exception as error:  # of the network, of the hub, or of its licence
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{reference!r}: is not in the hub's cache, and the hub cannot be asked ({reason}). Download it where "
            "there is a network, and give its folder."
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether every folder that the repository lists was fetched; a killed download leaves some out."""
    index = folder / "model_index.json"
    if not index.is_file():
        return False
    try:
        folders: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return False
    skipped = {pattern.removesuffix("/*") for pattern in NOT_FETCHED}
    names = [name for name, kind in folders.items() if isinstance(kind, list) and kind[0] and name not in skipped]
    alone = (folder / "config.json").is_file()  # a repository of one network has its files at the top
    return all(_has_files(folder if alone and not (folder / name).is_dir() else folder / name) for name in names)


def _has_files(folder: Path) -> bool:
    """A tokenizer or a scheduler has no weights; a network has, all of their files."""
    if not (folder / "config.json").is_file():
        return folder.is_dir() and any(folder.glob("*.json"))
    try:
        found = weight_files(folder)
    except ValueError:
        return False
    return found is not None and all(path.is_file() for path in found.paths)
