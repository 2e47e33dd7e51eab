"""Class-conditional diffusion transformers (DiT, arXiv:2212.09748) stored as diffusers folders."""

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
    stored_noise,
)
from cq.models.release import CAME_LATER, Release
from cq.models.stored import check_block_site, check_classes, check_decoder, check_part, num_blocks, stored_layers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformer:
    """A folder with transformer, vae and scheduler, as diffusers' DiTPipeline opens it.

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: the blocks whose deviation is cached,
    `blocks.1-7` for 1 to 6. guidance: scale of classifier-free guidance on the noise (a learned variance is not used).
    release: facts about published weights.
    """

    family: ClassVar[Family] = "transformer"

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

    @property
    def blocks(self) -> int:
        """How many transformer blocks there are, by the model's configuration."""
        return num_blocks(self.weights)

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for a model that is not there or a site it does not have."""
        check_folder(self.weights, ("transformer", "vae", "scheduler"), self.release, pipelines=("DiTPipeline",))
        check_part(self.weights, "transformer", kind="DiTTransformer2DModel", latent_shape=self.latent_shape)
        check_decoder(self.weights, self.latent_shape, self.image_shape)
        check_classes(self.weights, "transformer", "num_embeds_ada_norm", self.num_classes)
        check_block_site(self.weights, self.site)

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "transformer")

    def load(self) -> "TransformerModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import DiTTransformer2DModel

        from cq.models.dit import DiTCut
        from cq.models.reading import guided, read_first_stage, read_part
        from cq.sampler.ddim import DDIM

        network = DiTCut(read_part(DiTTransformer2DModel, self.weights, "transformer"))
        return TransformerModel(
            component=self,
            denoiser=guided(network, self, null_first=False),
            vae=read_first_stage(self.weights),
            sampler=DDIM(),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)


@dataclass(frozen=True, kw_only=True)
class TransformerModel(LatentSpaceModel):
    """DiT's conditions are the classes themselves."""

    def condition(self, labels_N: "Tensor", purpose: Purpose = "evaluation") -> "Tensor":
        """Labels int64: [labels; null], the order of diffusers' DiTPipeline; the labels alone without guidance."""
        import torch

        if self.denoiser.guidance is None:
            return labels_N
        null = int(self.denoiser.network.backbone.config.num_embeds_ada_norm)
        return torch.cat([labels_N, torch.full_like(labels_N, null)])
