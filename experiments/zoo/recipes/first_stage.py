"""The first stages of the latent models: AutoencoderKL, 1x32x32 or 3x32x32 to 4x8x8 (factor 4)."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from cq.evaluate.classifier import Classifier
from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit
from experiments.zoo.recipes.precision import mixed_precision, with_float32_norms
from experiments.zoo.scenes import scenes


@dataclass(frozen=True, kw_only=True)
class FirstStageRecipe:
    """L1, a perceptual distance in maps of a classifier, and a small KL term (as LDM, arXiv:2112.10752, 3.1).

    Of grey garments, unless a subclass has other images.
    """

    root: Path
    perceptual: Path  # folder of the trained classifier
    kl_weight: float = 1e-4
    perceptual_weight: float = 0.5
    channels: int = 1
    widths: tuple[int, int, int] = (24, 48, 96)
    bf16: bool = False
    name: str = "first_stage"
    num_steps: int = 3600
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.999
    seed: int = 11
    _networks: list[Classifier] = field(default_factory=list, repr=False)

    def model(self) -> nn.Module:
        model = AutoencoderKL(
            in_channels=self.channels,
            out_channels=self.channels,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=self.widths,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=32,
        )
        return with_float32_norms(model)

    def images(self) -> Tensor:
        """Training images, uint8 [n, channels, 32, 32]."""
        return fashion_mnist("train", self.root)[0]

    def data(self) -> tuple[Tensor, ...]:
        return (self.images(),)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        assert isinstance(model, AutoencoderKL)
        images = to_unit(batch[0]).contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.bf16):
            posterior = model.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample
            distance = self._distance(decoded, images)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        error = (decoded.float() - images).abs().mean()
        loss: Tensor = error + self.perceptual_weight * distance + self.kl_weight * kl
        return loss

    def _distance(self, decoded: Tensor, images: Tensor) -> Tensor:
        if not self._networks:
            network = Classifier.from_pretrained(self.perceptual).float().eval().requires_grad_(False)
            self._networks.append(network.to(memory_format=torch.channels_last))
        total = torch.zeros(())
        for fake, real in zip(self._networks[0].maps(decoded), self._networks[0].maps(images), strict=True):
            total = total + (fake.float() - real.float()).pow(2).mean() / real.float().pow(2).mean()
        return total

    @torch.no_grad()
    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, AutoencoderKL)
        images = to_unit(self.images()[:10_000])
        latents = torch.cat([model.encode(part).latent_dist.mean for part in torch.split(images, 500)])
        model.register_to_config(scaling_factor=round(1 / latents.std().item(), 6))
        decoded = torch.cat([model.decode(part).sample for part in torch.split(latents[:2000], 500)])
        error = ((decoded.clamp(-1, 1) - images[:2000]) / 2).pow(2).mean((1, 2, 3))
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / self.name)
        return {"psnr_db": -10 * error.log10().mean().item(), "latent_std": latents.std().item()}


@dataclass(frozen=True, kw_only=True)
class SceneFirstStageRecipe(FirstStageRecipe):
    """Of colour scenes; the classifier is one of scenes."""

    channels: int = 3
    bf16: bool = True
    name: str = "scene_first_stage"
    seed: int = 12
    count: int = 60_000

    def images(self) -> Tensor:
        return scenes("train", self.root, indices=range(self.count), seed=self.seed, share="trained").images_NCHW
