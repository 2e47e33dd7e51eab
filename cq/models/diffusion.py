"""The nouns of a diffusion model: its component, which stands in a yaml, and what is loaded of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    import torch
    from torch import Tensor
    from typing_extensions import Self

    from cq.core.contracts import NoiseScheduler, Sampler
    from cq.core.denoiser import GuidedDenoiser
    from cq.models.release import Release

Family = Literal["unet", "transformer"]
Purpose = Literal["evaluation", "calibration"]

PIXELS = "round to nearest, uint8"  # how `DiffusionModel.decode` rounds, as protocols state it


class UnusableModelError(ValueError):
    """What only a loaded model shows. Nothing has been computed with it, so the run is refused and not recorded."""


def guiding(scale: float | None) -> float | None:
    """The scale of classifier-free guidance; None where there is none: no scale or, as in diffusers, one up to 1."""
    return None if scale is None or scale <= 1 else scale


class ModelComponent(Protocol):
    """A model's yaml: where its weights are, what it takes, and how it is loaded.

    site: its own cut point. guidance: see `guiding`. num_classes: conditions to choose from (classes or prompts), 0
    where unconditional. latent_shape: what the denoiser sees. image_shape: what is drawn. release: facts about
    published weights.
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
    def release(self) -> "Release | None": ...

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


@runtime_checkable
class ReadsPrompts(Protocol):
    """What the component of a text-to-image model adds. prompts: the folder of its prompts."""

    @property
    def prompts(self) -> str: ...

    def read_prompts(self, purpose: Purpose) -> tuple[str, ...]:
        """The prompts of one file. Raises ValueError where it is missing, empty or not as `captions` reads it."""


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """A loaded model.

    vae: the first stage, AutoencoderKL or VQModel; None where the denoiser sees the images themselves. sampler: makes
    the solver from the noise schedule that is stored with the weights.
    """

    component: ModelComponent
    denoiser: "GuidedDenoiser"
    vae: Any
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
            module = getattr(self, field.name)
            if isinstance(module, nn.Module):
                module.to(device)
        nn.Module.to(self.denoiser.network.backbone, device=device, dtype=dtype)  # diffusers' own warns of any dtype
        return replace(self, denoiser=replace(self.denoiser, dtype=dtype))

    def noise_scheduler(self, num_steps: int) -> "NoiseScheduler":
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
        """Latents to uint8 images [N, C, H, W]: clamped to [-1, 1], mapped to 0..255 and rounded to nearest."""
        from cq.models.first_stage import decoded, to_pixels

        return to_pixels(latents_NCHW if self.vae is None else decoded(self.vae, latents_NCHW))
