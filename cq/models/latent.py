"""Class-conditional (and unconditional) latent diffusion models stored as diffusers folders."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cq.models.denoiser import UNetDenoiser


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
    """A folder with unet, vae, scheduler and, where guided, class_embedder (LDM, arXiv:2112.10752).

    weights: `zoo:NAME` or a local folder. site: the entry ResNet of the cut. guidance: scale of classifier-free
    guidance, or None for an unconditional model. num_classes: 0 where unconditional. eta: DDIM's.
    """

    weights: str
    site: str
    guidance: float | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]

    def check(self, *, num_steps: int) -> None:
        """Raise ValueError, before anything is loaded, for a model that is not there or a step count it cannot take."""
        from cq.zoo.locate import locate

        try:
            folder = locate(self.weights)
        except ValueError as error:
            raise ValueError(f"model.weights={error}") from error
        needed = ["unet", "vae", "scheduler", *(["class_embedder"] if self.num_classes else [])]
        absent = [name for name in needed if not (folder / name).is_dir()]
        if absent:
            raise ValueError(
                f"model.weights={self.weights!r}: there is no {' and no '.join(absent)} in {folder}. Give a folder in "
                f"diffusers' layout, with {', '.join(needed)}."
            )
        if not self.site.startswith("up_blocks."):
            raise ValueError(f"model.site={self.site!r}: must name an entry ResNet, `up_blocks.I.resnets.J`.")
        if 1000 % num_steps:
            raise ValueError(
                f"budget.num_steps={num_steps}: DDIM's leading grid needs a divisor of the 1000 training steps, "
                "else the first steps are lost. Choose 50, 100, 125, 200, 250, 500 or 1000."
            )

    def num_calls(self, num_steps: int) -> int:
        """Denoiser calls of one trajectory; DDIM makes one a step."""
        return num_steps

    def load(self) -> "DiffusionModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        from cq.models.call import CallIndex
        from cq.models.class_embedder import ClassEmbedder
        from cq.models.denoiser import UNetDenoiser
        from cq.models.unet import Cut, UNetCut
        from cq.zoo.locate import locate

        folder = locate(self.weights)

        def part(kind: Any, name: str) -> Any:
            return kind.from_pretrained(folder, subfolder=name).float().eval().requires_grad_(False)

        network = UNetCut(part(UNet2DConditionModel, "unet"), Cut.parse(self.site)).eval()
        return DiffusionModel(
            component=self,
            denoiser=UNetDenoiser(network=network, guidance=self.guidance, call_index=CallIndex()),
            vae=part(AutoencoderKL, "vae"),
            class_embedder=part(ClassEmbedder, "class_embedder") if self.num_classes else None,
            scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        from cq.zoo.locate import locate

        digest = hashlib.sha256()
        folder = locate(self.weights)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + _file_digest(path))
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DiffusionModel:
    """The loaded parts, and how they turn labels and latents into conditions and images."""

    component: LatentDiffusion
    denoiser: "UNetDenoiser"
    vae: Any
    class_embedder: Any
    scheduler: Any

    def noise_scheduler(self, num_steps: int) -> Any:
        """A fresh diffusers scheduler with its timesteps set; one loop uses one."""
        fresh = type(self.scheduler).from_config(self.scheduler.config)
        fresh.set_timesteps(num_steps)
        return fresh

    def condition(self, labels_N: "Tensor") -> "Tensor | None":
        """Context [2N, 1, dim]: first the null class, then the labels; None for unconditional models."""
        import torch

        if self.class_embedder is None:
            return None
        with torch.no_grad():
            null = torch.full_like(labels_N, self.class_embedder.null_class)
            context: Tensor = self.class_embedder(torch.cat([null, labels_N]))
        return context

    def decode(self, latents_NCHW: "Tensor") -> "Tensor":
        """Latents to uint8 images [N, C, H, W]: clamped to [-1, 1], mapped to 0..255 and rounded."""
        import torch

        with torch.no_grad():
            images = self.vae.decode(latents_NCHW / self.vae.config.scaling_factor).sample
        pixels: Tensor = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels


def _file_digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
