"""Class-conditional and unconditional latent diffusion U-Nets stored as diffusers folders."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cq.models.diffusion import (
    DiffusionModel,
    Family,
    Purpose,
    check_folder,
    folder_digest,
    read_first_stage,
    read_part,
    read_scheduler,
    to_pixels,
)
from cq.models.release import CAME_LATER, Release
from cq.models.stored import check_classes, check_decoder, check_part, part_config, stored_layers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
    """A folder with unet, vae, scheduler and, where guided, class_embedder (LDM, arXiv:2112.10752).

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: the entry ResNet of the cut. guidance: scale
    of classifier-free guidance, or None for an unconditional model. num_classes: 0 where unconditional. release: facts
    about published weights.
    """

    family: ClassVar[Family] = "unet"
    blocks: ClassVar[int] = 0

    weights: str
    site: str
    guidance: float | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None = field(metadata=CAME_LATER)

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for a model that is not there or a site it does not have."""
        from cq.models.sites import check_cut, cuts_of

        classes = ("class_embedder",) if self.num_classes else ()
        check_folder(self.weights, ("unet", "vae", "scheduler", *classes), self.release)
        kind = "UNet2DConditionModel" if self.num_classes else "UNet2DModel"
        check_part(self.weights, "unet", kind=kind, latent_shape=self.latent_shape)
        check_decoder(self.weights, self.latent_shape, self.image_shape)
        if self.num_classes == 0 and self.guidance is not None:
            raise ValueError(
                f"model.guidance={self.guidance}: an unconditional model (model.num_classes=0) has nothing to be "
                "guided by. Set model.guidance=null."
            )
        if self.num_classes:
            check_classes(self.weights, "class_embedder", "num_classes", self.num_classes)
        check_cut(self.site, cuts_of(part_config(self.weights, "unet")))

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "unet")

    def load(self) -> "LatentModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel

        from cq.models.call import CallIndex
        from cq.models.class_embedder import ClassEmbedder
        from cq.models.denoiser import GuidedDenoiser
        from cq.models.unet import UNetCut
        from cq.sampler.ddim import DDIM

        unet = read_part(UNet2DConditionModel if self.num_classes else UNet2DModel, self.weights, "unet")
        denoiser = GuidedDenoiser(
            network=UNetCut(unet).eval(), sites=(), guidance=self.guidance, null_first=True, call_index=CallIndex()
        )
        return LatentModel(
            component=self,
            denoiser=denoiser.with_sites((self.site,)),
            vae=read_first_stage(self.weights),
            class_embedder=read_part(ClassEmbedder, self.weights, "class_embedder") if self.num_classes else None,
            scheduler=read_scheduler(DDIMScheduler, self.weights, self.release),
            sampler=DDIM(),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)


@dataclass(frozen=True, kw_only=True)
class LatentModel(DiffusionModel):
    """First stage and class embedder beside the denoiser."""

    vae: Any
    class_embedder: Any

    def condition(self, labels_N: "Tensor", purpose: Purpose = "evaluation") -> "Tensor | None":
        """Context [2N, 1, dim]: first the null class, then the labels; None for unconditional models.

        Without guidance that of the labels alone, [N, 1, dim].
        """
        import torch

        if self.class_embedder is None:
            return None
        with torch.no_grad():
            null = torch.full_like(labels_N, self.class_embedder.null_class)
            halves = [labels_N] if self.denoiser.guidance is None else [null, labels_N]
            context: Tensor = self.class_embedder(torch.cat(halves))
        return context

    def decode(self, latents_NCHW: "Tensor") -> "Tensor":
        """Latents to uint8 images [N, C, H, W]: clamped to [-1, 1], mapped to 0..255 and rounded."""
        import torch

        with torch.no_grad():
            images = self.vae.decode(latents_NCHW / self.vae.config.scaling_factor).sample
        return to_pixels(images)
