"""What the components of all models share that are stored as diffusers folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from cq.core.contracts import Sampler
from cq.models.diffusion import DiffusionModel
from cq.models.folder import check_folder, folder_digest, stored_noise
from cq.models.stored import check_decoder, check_denoiser, check_site, num_blocks, stored_layers
from cq.sampler.ddim import DDIM

if TYPE_CHECKING:
    from cq.models.diffusion import ModelComponent as Contract
else:
    Contract = object  # a dataclass would take a property of the contract for the default of its field

Loaded = TypeVar("Loaded", bound=DiffusionModel)


@dataclass(frozen=True, kw_only=True)
class StoredModel(Contract):
    """A folder in diffusers' layout. A model is a subclass, which adds the fields of its yaml and its conditions.

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: what is cached by default, as the network
    names it: the entry ResNet of a U-Net's cut (`up_blocks.I.resnets.J`), or a range of a transformer's blocks
    (`blocks.1-7` for 1 to 6). A subclass names its network (diffusers' class), the `folders` that it must have and the
    `pipelines` that model_index.json may name, and the `solver` of its stock pipeline.
    """

    pipelines: ClassVar[tuple[str, ...]]
    solver: ClassVar[Sampler] = DDIM()
    amended: ClassVar[Mapping[str, Any]] = {}  # what the stock pipeline changes in the stored scheduler
    moments: ClassVar[bool] = False  # whether it undoes the latents' mean and deviation
    null_first: ClassVar[bool] = True  # which half of a guided condition is the unconditional one

    weights: str
    site: str

    @property
    def network(self) -> str:
        """diffusers' class of the network, which lies in the folder that is named as its family."""
        raise NotImplementedError

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that the model must have."""
        raise NotImplementedError

    @property
    def noise(self) -> Mapping[str, Any]:
        """The stored scheduler's configuration, as the stock pipeline reads it."""
        return {**stored_noise(self.weights, self.release), **self.amended}

    @property
    def blocks(self) -> int:
        """Transformer blocks that a strategy can name, by the model's configuration; none in a U-Net."""
        return num_blocks(self.weights) if self.family == "transformer" else 0

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for missing folders, those of two models, or an unknown site."""
        check_folder(self.weights, self.folders, self.release, pipelines=self.pipelines)
        key = "model.latent_shape" if "vae" in self.folders else "model.image_shape"
        check_denoiser(self.weights, self.family, kind=self.network, latent_shape=self.latent_shape, key=key)
        if "vae" in self.folders:
            check_decoder(self.weights, self.latent_shape, self.image_shape, moments=self.moments)
        self.check_conditions()
        check_site(self.weights, self.family, self.site)

    def check_conditions(self) -> None:
        """Raise ValueError where what makes the conditions is not of the network's model."""

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, self.family)

    def load(self) -> DiffusionModel:
        """Read the weights as float32 in evaluation mode."""
        return self.opened(DiffusionModel)

    def opened(self, kind: type[Loaded], **conditions: Any) -> Loaded:
        """Network and first stage, read from their folders. conditions: what else a `kind` holds."""
        import diffusers

        from cq.models.cutting import denoiser_of
        from cq.models.reading import read_first_stage, read_module

        network = read_module(getattr(diffusers, self.network), self.weights, self.family)
        return kind(
            component=self,
            denoiser=denoiser_of(network, site=self.site, guidance=self.guidance, null_first=self.null_first),
            vae=read_first_stage(self.weights) if "vae" in self.folders else None,
            sampler=self.solver,
            **conditions,
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)
