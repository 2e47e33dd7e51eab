"""What every loaded diffusion model offers the stages, whatever its family."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cq.models.files import check_no_adapter, check_tokenizer, check_weights, weight_files
from cq.models.stored import check_index, part_config, part_folder

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    import torch
    from torch import Tensor
    from typing_extensions import Self

    from cq.core.contracts import Sampler
    from cq.core.denoiser import GuidedDenoiser
    from cq.models.release import Release

Family = Literal["unet", "transformer"]
Purpose = Literal["evaluation", "calibration"]

PIXELS = "round to nearest, uint8"  # what `to_pixels` does, as protocols state it


class UnusableModelError(ValueError):
    """What only a loaded model shows. Nothing has been computed with it, so the run is refused and not recorded."""


def guiding(scale: float | None) -> float | None:
    """The scale of classifier-free guidance; None where there is none: no scale or, as in diffusers, one up to 1."""
    return None if scale is None or scale <= 1 else scale


class ModelComponent(Protocol):
    """A model's yaml: where its weights are, what it takes, and how it is loaded.

    site: its own cut point. guidance: see `guiding`. num_classes: conditions to choose from (classes or prompts), 0
    where unconditional. latent_shape: what the denoiser sees. image_shape: what is drawn.
    """

    @property
    def family(self) -> Family: ...
    @property
    def weights(self) -> str: ...
    @property
    def site(self) -> str: ...
    @property
    def guidance(self) -> float | None: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def noise(self) -> Mapping[str, Any]:
        """The stored scheduler's configuration, which a sampler reads as `cq.sampler.stored` says."""

    @property
    def blocks(self) -> int:
        """Transformer blocks that a strategy can name, read without loading anything; 0 for U-Nets."""

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for what cannot work."""

    def layers(self) -> frozenset[str] | None:
        """Names of the denoiser's layers, read without loading anything; see `cq.models.stored.stored_layers`."""

    def load(self) -> "DiffusionModel":
        """Read the weights as float32 in evaluation mode."""

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """The loaded parts. sampler: makes the solver from the noise schedule that is stored with the weights."""

    component: ModelComponent
    denoiser: "GuidedDenoiser"
    sampler: "Sampler"

    @property
    def device(self) -> "torch.device":
        """Where the network is, and so where states and conditions have to be."""
        found: torch.device = next(self.denoiser.network.backbone.parameters()).device
        return found

    def on(self, device: "torch.device", dtype: "torch.dtype") -> "Self":
        """The model on a device, its network in `dtype`; conditions and decoding stay in float32. Moves, not copies."""
        from torch import nn

        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, nn.Module):
                part.to(device)
        nn.Module.to(self.denoiser.network.backbone, device=device, dtype=dtype)  # diffusers' own warns of any dtype
        return replace(self, denoiser=replace(self.denoiser, dtype=dtype))

    def noise_scheduler(self, num_steps: int) -> Any:
        """A fresh diffusers scheduler with its timesteps set; one loop uses one."""
        return self.sampler.noise_scheduler(self.component.noise, num_steps)

    def condition(self, labels_N: "Tensor", purpose: Purpose = "evaluation") -> "Tensor | None":
        """What the network is conditioned on, both halves [2N, ...] where guided; None for unconditional models.

        purpose: calibration never sees an evaluation prompt; classes are the same for both.
        """
        return None

    def captions(self, labels_N: "Tensor") -> tuple[str, ...]:
        """The text of each label; empty for models that take none."""
        return ()

    def decode(self, latents_NCHW: "Tensor") -> "Tensor":
        """Latents to uint8 images [N, C, H, W]: clamped to [-1, 1], mapped to 0..255 and rounded."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LatentSpaceModel(DiffusionModel):
    """A first stage beside the denoiser."""

    vae: Any

    def decode(self, latents_NCHW: "Tensor") -> "Tensor":
        """Latents to uint8 images [N, C, H, W]: clamped to [-1, 1], mapped to 0..255 and rounded."""
        from cq.models.reading import decoded

        return to_pixels(decoded(self.vae, latents_NCHW))


def to_pixels(images_NCHW: "Tensor") -> "Tensor":
    """-1..1 to uint8, clamped and rounded to nearest."""
    import torch

    pixels: Tensor = ((images_NCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels


def stored_noise(weights: str, release: "Release | None") -> Mapping[str, Any]:
    """The stored scheduler's configuration; sampled from as `release` says. Raises ValueError where it has no class."""
    stored = part_config(weights, "scheduler")
    if "_class_name" not in stored:
        raise ValueError(
            f"model.weights={weights!r}: its scheduler_config.json has no _class_name, without which nobody knows what "
            "a key means that is not stored. Write it there, as in model_index.json."
        )
    return stored if release is None else release.noise(stored)


def check_folder(
    weights: str, parts: tuple[str, ...], release: "Release | None", *, pipelines: tuple[str, ...]
) -> None:
    """Raise ValueError where the model's folder, or a file of one of its parts, is missing or no such model's.

    pipelines: of diffusers, as model_index.json may name them. release: what it must be, if anything.
    """
    from cq.models.locate import locate

    remedy = "" if release is None else f" {release.how_to_get_it}"
    try:
        folder = locate(weights)
    except ValueError as error:
        raise ValueError(f"model.weights={error}{remedy}") from error
    absent = [name for name in parts if not part_folder(weights, name).is_dir()]
    if absent:
        raise ValueError(
            f"model.weights={weights!r}: there is no {' and no '.join(absent)} in {folder}. Give a folder in "
            f"diffusers' layout, with {', '.join(parts)}.{remedy}"
        )
    check_index(weights, pipelines, parts)
    networks = [name for name in parts if name != "scheduler" and not name.startswith("tokenizer")]
    for name in networks:
        if part_config(weights, name).get("quantization_config") is not None:
            raise ValueError(
                f"model.weights={weights!r}: its {name} is stored quantized (quantization_config), and networks are "
                "quantized here from full precision. Give the folder that it was made of."
            )
    try:
        check_no_adapter(folder)
        for name in parts:
            if name in networks:
                check_weights(part_folder(weights, name))
            elif name != "scheduler":
                check_tokenizer(part_folder(weights, name))
    except ValueError as error:
        raise ValueError(f"model.weights={weights!r}: {error}") from error
    if release is not None:
        release.check(part_config(weights, "scheduler"))
        release.check_converted(folder)


def folder_digest(weights: str) -> str:
    """SHA-256 over the names and bytes of every file of the model's folder."""
    from cq.models.locate import HUB, locate

    digest = hashlib.sha256()
    folder = locate(weights)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if weights.startswith(HUB) and not _decides(path):
            continue
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + _digest_of_file(path))
    return digest.hexdigest()


def _decides(path: Path) -> bool:
    """Whether a hub's file is part of the model: not its documents, nor what diffusers would not open."""
    if path.suffix in (".bin", ".safetensors"):
        opened = weight_files(path.parent)
        return opened is not None and path in opened.paths
    return path.suffix in (".json", ".txt", ".model")


def _digest_of_file(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**24):
            digest.update(block)
    return digest.digest()
