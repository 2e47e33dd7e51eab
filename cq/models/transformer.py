"""Class-conditional diffusion transformers (DiT, arXiv:2212.09748) stored as diffusers folders."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cq.core.values import Guidance
from cq.models.component import StoredModel
from cq.models.diffusion import DiffusionModel, Family, Purpose
from cq.models.release import Release
from cq.models.stored import check_classes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformer(StoredModel):
    """A folder as diffusers' DiTPipeline opens it; see `StoredModel`.

    guidance: scale of classifier-free guidance on the noise (a learned variance is not used). release: facts about
    published weights.
    """

    family: ClassVar[Family] = "transformer"
    network: ClassVar[str] = "DiTTransformer2DModel"
    folders: ClassVar[tuple[str, ...]] = ("transformer", "vae", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    null_first: ClassVar[bool] = False

    guidance: Guidance | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None

    def check_conditions(self) -> None:
        """Raise ValueError for more classes than the network tells apart."""
        check_classes(self.weights, "transformer", "num_embeds_ada_norm", self.num_classes)

    def load(self) -> "TransformerModel":
        """Read the weights as float32 in evaluation mode."""
        return self.opened(TransformerModel)


@dataclass(frozen=True, kw_only=True)
class TransformerModel(DiffusionModel):
    """DiT's conditions are the classes themselves."""

    def condition(self, labels_N: "Tensor", purpose: Purpose = "evaluation") -> "Tensor":
        """Labels int64: [labels; null], the order of diffusers' DiTPipeline; the labels alone without guidance."""
        import torch

        if self.denoiser.guidance is None:
            return labels_N
        null = int(self.denoiser.network.backbone.config.num_embeds_ada_norm)
        return torch.cat([labels_N, torch.full_like(labels_N, null)])
