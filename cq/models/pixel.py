"""Unconditional diffusion in pixel space (DDPM, arXiv:2006.11239) stored as a diffusers folder."""

from dataclasses import dataclass
from typing import ClassVar

from cq.models.component import StoredModel
from cq.models.diffusion import Family
from cq.models.release import Release


@dataclass(frozen=True, kw_only=True)
class PixelDiffusion(StoredModel):
    """A folder with unet and scheduler; see `StoredModel`.

    site: the deep cut of CacheQuant's CIFAR experiment is the last ResNet of the block before the last. release: facts
    about published weights.
    """

    family: ClassVar[Family] = "unet"
    network: ClassVar[str] = "UNet2DModel"
    folders: ClassVar[tuple[str, ...]] = ("unet", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
    guidance: ClassVar[None] = None
    num_classes: ClassVar[int] = 0

    image_shape: tuple[int, int, int]
    release: Release | None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The image itself."""
        return self.image_shape
