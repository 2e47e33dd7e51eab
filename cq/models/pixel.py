"""Unconditional diffusion in pixel space (DDPM, arXiv:2006.11239) stored as a diffusers folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cq.models.diffusion import (
    DiffusionModel,
    Family,
    check_folder,
    folder_digest,
    stored_noise,
    to_pixels,
)
from cq.models.release import CAME_LATER, Release
from cq.models.stored import check_part, part_config, stored_layers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PixelDiffusion:
    """A folder with unet and scheduler.

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: the entry ResNet of the cut; the deep one of
    CacheQuant's CIFAR experiment is the last ResNet of the block before the last. release: facts about published
    weights.
    """

    family: ClassVar[Family] = "unet"
    blocks: ClassVar[int] = 0
    guidance: ClassVar[None] = None
    num_classes: ClassVar[int] = 0

    weights: str
    site: str
    image_shape: tuple[int, int, int]
    release: Release | None = field(metadata=CAME_LATER)

    @property
    def noise(self) -> Mapping[str, Any]:
        """The stored scheduler's configuration."""
        return stored_noise(self.weights, self.release)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The image itself."""
        return self.image_shape

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for a model that is not there or a site it does not have."""
        from cq.models.sites import check_cut, cuts_of

        pipelines = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
        check_folder(self.weights, ("unet", "scheduler"), self.release, pipelines=pipelines)
        check_part(self.weights, "unet", kind="UNet2DModel", latent_shape=self.latent_shape, key="model.image_shape")
        check_cut(self.site, cuts_of(part_config(self.weights, "unet")))

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "unet")

    def load(self) -> "PixelModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import UNet2DModel

        from cq.models.reading import guided, read_part
        from cq.models.unet import UNetCut
        from cq.sampler.ddim import DDIM

        network = UNetCut(read_part(UNet2DModel, self.weights, "unet"))
        return PixelModel(
            component=self,
            denoiser=guided(network, self),
            sampler=DDIM(),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)


@dataclass(frozen=True, kw_only=True)
class PixelModel(DiffusionModel):
    """Nothing beside the denoiser."""

    def decode(self, latents_NCHW: "Tensor") -> "Tensor":
        """The images themselves as uint8, clamped and rounded."""
        return to_pixels(latents_NCHW)
