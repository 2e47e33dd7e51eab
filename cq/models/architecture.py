"""The published networks as facts: diffusers configurations by model and subfolder, and the modules they describe.

cq/models/architectures/NAME.json holds, for each subfolder of a model, what its config.json says. A number that
only a checkpoint knows is null.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # these bring torch
    from torch import nn

FOLDER = Path(__file__).parent / "architectures"

Architecture = Mapping[str, Mapping[str, Any]]


def architecture(name: str) -> Architecture:
    """Subfolder to configuration. Raises ValueError for a model of another name."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise ValueError(f"architecture={name!r}: there is no such architecture. Choose from: {known}.")
    folders: Architecture = json.loads(path.read_text(encoding="utf-8"))
    return folders


def build_module(config: Mapping[str, Any]) -> Any:
    """A module, or a noise scheduler, of the class that `config` names, with random weights where it has any."""
    import diffusers
    import transformers

    from cq.models.class_embedder import ClassEmbedder

    settings = {key: value for key, value in config.items() if key != "_class_name" and value is not None}
    name = config["_class_name"]
    if name == "ClassEmbedder":
        return ClassEmbedder(**settings)
    if hasattr(transformers, name):
        kind = getattr(transformers, name)
        return kind(kind.config_class(**settings))
    heads = settings.pop("num_attention_heads", None) if name == "UNet2DModel" else None
    part = getattr(diffusers, name)(**settings)
    if heads is not None:
        part.register_to_config(num_attention_heads=heads)
        set_heads(part)
    return part


def set_heads(unet: "nn.Module") -> None:
    """Give every attention of a UNet2DModel the number of heads that its configuration asks for.

    LDM-8 Church has 8 heads at every width, and diffusers' UNet2DModel knows only a fixed width of a head. So its
    config.json carries `num_attention_heads`, a key that UNet2DModel stores and does not read: a folder that has it
    must be opened with `cq.models.reading.read_module`, which calls this.
    """
    from diffusers.models.attention_processor import Attention

    heads = unet.config.get("num_attention_heads")  # type: ignore[operator, union-attr]
    if heads is None:
        return
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5
