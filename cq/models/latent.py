"""Class-conditional and unconditional latent diffusion U-Nets stored as diffusers folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cq.core.values import Guidance
from cq.models.diffusion import (
    Family,
    LatentSpaceModel,
    Purpose,
    check_folder,
    folder_digest,
    guiding,
    stored_noise,
)
from cq.models.release import CAME_LATER, Release
from cq.models.stored import check_classes, check_context, check_decoder, check_part, part_config, stored_layers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
    """A folder with unet, vae, scheduler and, where guided, class_embedder (LDM, arXiv:2112.10752).

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: the entry ResNet of the cut. guidance: scale
    of classifier-free guidance; up to 1, or None, there is none. num_classes: 0 where unconditional. release: facts
    about published weights.
    """

    family: ClassVar[Family] = "unet"
    blocks: ClassVar[int] = 0

    weights: str
    site: str
    guidance: Guidance | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None = field(metadata=CAME_LATER)

    @property
    def noise(self) -> Mapping[str, Any]:
        """The stored scheduler's configuration."""
        return stored_noise(self.weights, self.release)

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for a model that is not there or a site it does not have."""
        from cq.models.sites import check_cut, cuts_of

        classes = ("class_embedder",) if self.num_classes else ()
        check_folder(self.weights, ("unet", "vae", "scheduler", *classes), self.release, pipelines=("LDMPipeline",))
        kind = "UNet2DConditionModel" if self.num_classes else "UNet2DModel"
        check_part(self.weights, "unet", kind=kind, latent_shape=self.latent_shape)
        check_decoder(self.weights, self.latent_shape, self.image_shape)
        if self.num_classes == 0 and guiding(self.guidance) is not None:
            raise ValueError(
                f"model.guidance={self.guidance}: an unconditional model (model.num_classes=0) has nothing to be "
                "guided by. Set model.guidance=null."
            )
        if self.num_classes:
            check_classes(self.weights, "class_embedder", "num_classes", self.num_classes)
            made = part_config(self.weights, "class_embedder").get("dim")
            check_context(self.weights, "unet", key="cross_attention_dim", made=made, by="its class_embedder")
        check_cut(self.site, cuts_of(part_config(self.weights, "unet")))

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "unet")

    def load(self) -> "LatentModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import UNet2DConditionModel, UNet2DModel

        from cq.models.class_embedder import ClassEmbedder
        from cq.models.reading import guided, read_first_stage, read_part
        from cq.models.unet import UNetCut
        from cq.sampler.ddim import DDIM

        unet = read_part(UNet2DConditionModel if self.num_classes else UNet2DModel, self.weights, "unet")
        return LatentModel(
            component=self,
            denoiser=guided(UNetCut(unet), self),
            vae=read_first_stage(self.weights),
            class_embedder=read_part(ClassEmbedder, self.weights, "class_embedder") if self.num_classes else None,
            sampler=DDIM(),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)


@dataclass(frozen=True, kw_only=True)
class LatentModel(LatentSpaceModel):
    """First stage and class embedder beside the denoiser."""

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
