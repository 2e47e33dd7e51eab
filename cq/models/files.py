"""The weight files of a part's folder: which of them are opened, and whether they are whole. Needs no torch."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cq.models.headers import fault_of, shapes_of

STEMS = {"safetensors": ("diffusion_pytorch_model", "model"), "bin": ("diffusion_pytorch_model", "pytorch_model")}
VARIANTS = (None, "fp16", "bf16")  # of one set of weights; plain files come first, as in diffusers
ADAPTER = re.compile(r"\.(base_layer|original_module|modules_to_save)\.|(^|[._])(lora|hada|loha|lokr|dora)[._A-Z]")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.*", "*lora*.safetensors", "*lora*.bin")
MERGE = (
    "Merge it in diffusers and save the whole: pipe.load_lora_weights(LORA); pipe.fuse_lora(); "
    "pipe.unload_lora_weights(); pipe.save_pretrained(FOLDER)"
)


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """paths: what is opened, by the index of shards where there is one (they need not be there).

    variant: `fp16` or `bf16` where the folder has no plain files. safetensors: else pickled tensors.
    """

    paths: tuple[Path, ...]
    variant: str | None
    safetensors: bool


def weight_files(folder: Path) -> WeightFiles | None:
    """The files that diffusers or transformers would open; None where a folder has none. ValueError for a bad index."""
    for variant, (ending, stems) in product(VARIANTS, STEMS.items()):
        for stem in stems:
            one = folder / ".".join(filter(None, (stem, variant, ending)))
            index = folder / ".".join(filter(None, (stem, ending, "index", variant, "json")))
            # where both lie in one folder, diffusers reads the index and transformers the single file
            order = (index, one) if stem.startswith("diffusion") else (one, index)
            for path in order:
                if path.is_file():
                    paths = (path,) if path == one else _shards(index)
                    return WeightFiles(paths=paths, variant=variant, safetensors=ending == "safetensors")
    return None


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return tuple(index.parent / name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} lists no weights ({first_line(error)}). Get the folder again.") from error


def check_weights(folder: Path) -> None:
    """Raise ValueError where the weights in a part's folder are missing, not whole, or those of an unmerged adapter."""
    check_no_adapter(folder)
    found = weight_files(folder)
    if found is None:
        others = [p for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", ".bin", ".ckpt", ".msgpack")]
        names = ", ".join(path.name if path.is_file() else f"{path.name} (not a file)" for path in others[:3])
        has = f"only {names}" if others else "no weights"
        raise ValueError(
            f"{folder} has {has}. It must hold diffusion_pytorch_model.safetensors (of a text encoder "
            "model.safetensors), its .fp16. variant, or all shards with their index. Get the folder again, or rename "
            "the file."
        )
    for path in found.paths:
        fault = fault_of(path)
        if fault is not None:
            raise ValueError(f"{path} {fault}. Get the file again.")
        adapted = [name for name in shapes_of(path) or () if is_adapter(name)]
        if adapted:
            raise ValueError(f"{path} holds {listed(adapted)} of an adapter that was not merged (LoRA, PEFT). {MERGE}.")


def check_no_adapter(folder: Path) -> None:
    """Raise ValueError for the files of an adapter, which nobody would read."""
    beside = [path.name for pattern in ADAPTER_FILES for path in folder.glob(pattern)]
    if beside:
        raise ValueError(f"{folder} holds an adapter, {beside[0]}, which would not be used. {MERGE}; or take it away.")


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter, or to a layer that one is wrapped around."""
    return ADAPTER.search(name) is not None


def check_tokenizer(folder: Path) -> None:
    """Raise ValueError for a tokenizer without its vocabulary: without one it makes every prompt the same."""
    sets = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
    if not any(all((folder / name).is_file() for name in names) for names in sets):
        raise ValueError(
            f"{folder} holds no vocabulary: tokenizer.json, vocab.json with merges.txt, or spiece.model. Get the "
            "folder again."
        )
    for path in sorted(p for names in sets for name in names if (p := folder / name).is_file()):
        fault = fault_of(path)
        if fault is not None:
            raise ValueError(f"{path} {fault}. Get the file again.")


def first_line(error: Exception) -> str:
    """What an error of somebody else's says, as a part of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def listed(names: Iterable[str]) -> str:
    """A few of the names, and how many more there are."""
    all_names = sorted(names)
    shown = ", ".join(repr(name) for name in all_names[:4]) or "none"
    return f"{shown} and {len(all_names) - 4} more" if len(all_names) > 4 else shown


def differing(stored: Mapping[str, list[int]], asked: Mapping[str, list[int]]) -> str | None:
    """How the tensors of a file, name to shape, are not those a network asks for, as a part of a sentence."""
    missing, extra = asked.keys() - stored.keys(), stored.keys() - asked.keys()
    told = [f"lacks {listed(missing)}"] if missing else []
    told += [f"has {listed(extra)}, which the network has no place for"] if extra else []
    other = [name for name in sorted(asked.keys() & stored.keys()) if stored[name] != asked[name]]
    if other:
        one = f"has {other[0]!r} of shape {stored[other[0]]} where {asked[other[0]]} is asked for"
        told.append(one + (f", and {len(other) - 1} more of another shape" if other[1:] else ""))
    return "; it ".join(told) or None
