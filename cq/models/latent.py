"""Class-conditional and unconditional latent diffusion U-Nets stored as diffusers folders."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cq.core.values import Guidance
from cq.models.component import StoredModel
from cq.models.diffusion import DiffusionModel, Family, Purpose, guiding
from cq.models.release import Release
from cq.models.stored import check_classes, check_context, subfolder_config

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion(StoredModel):
    """A folder with unet, vae, scheduler and, where guided, class_embedder (LDM, arXiv:2112.10752); see `StoredModel`.

    guidance: scale of classifier-free guidance; up to 1, or None, there is none. num_classes: 0 where unconditional.
    release: facts about published weights.
    """

    family: ClassVar[Family] = "unet"
    pipelines: ClassVar[tuple[str, ...]] = ("LDMPipeline",)

    guidance: Guidance | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None

    @property
    def network(self) -> str:
        """The conditional U-Net where there are classes."""
        return "UNet2DConditionModel" if self.num_classes else "UNet2DModel"

    @property
    def folders(self) -> tuple[str, ...]:
        """With a class_embedder where there are classes."""
        return ("unet", "vae", "scheduler", *(("class_embedder",) if self.num_classes else ()))

    def check_conditions(self) -> None:
        """Raise ValueError for guidance without classes, more classes than there are, or another model's embedder."""
        if self.num_classes == 0 and guiding(self.guidance) is not None:
            raise ValueError(
                f"model.guidance={self.guidance}: an unconditional model (model.num_classes=0) has nothing to be "
                "guided by. Set model.guidance=null."
            )
        if self.num_classes:
            check_classes(self.weights, "class_embedder", "num_classes", self.num_classes)
            made = subfolder_config(self.weights, "class_embedder").get("dim")
            check_context(self.weights, "unet", key="cross_attention_dim", made=made, by="its class_embedder")

    def load(self) -> "LatentModel":
        """Read the weights as float32 in evaluation mode."""
        from cq.models.class_embedder import ClassEmbedder
        from cq.models.reading import read_module

        embedder = read_module(ClassEmbedder, self.weights, "class_embedder") if self.num_classes else None
        return self.opened(LatentModel, class_embedder=embedder)


@dataclass(frozen=True, kw_only=True)
class LatentModel(DiffusionModel):
    """class_embedder: None where unconditional."""

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
