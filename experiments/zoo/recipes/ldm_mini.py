"""ldm_mini: the class-conditional latent diffusion model, LDM-4 ImageNet's topology in small."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from cq.models.class_embedder import ClassEmbedder
from experiments.zoo.recipes.diffusion import draw_latents, latents_of, ldm_noise_scheduler, noise_loss, null_some

NUM_CLASSES = 10


class ConditionalUNet(nn.Module):
    """The two networks that are trained together: U-Net and class embedder."""

    def __init__(self, unet: UNet2DConditionModel, embedder: ClassEmbedder) -> None:
        super().__init__()
        self.unet = unet
        self.class_embedder = embedder


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionRecipe:
    """Noise prediction with min-SNR weights (arXiv:2303.09556, gamma 5); a tenth of the classes are nulled."""

    root: Path
    first_stage: Path
    latents: Path  # where the encoded training set is kept between runs
    channels: int = 32
    bf16: bool = False
    name: str = "ldm_mini"
    num_steps: int = 9_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.9995
    seed: int = 21
    null_share: float = 0.1

    def model(self) -> nn.Module:
        channels = self.channels
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(channels, 2 * channels, 3 * channels),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        return ConditionalUNet(unet, ClassEmbedder(num_classes=NUM_CLASSES, dim=64))

    def data(self) -> tuple[Tensor, ...]:
        return latents_of(self.first_stage, self.root, self.latents)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        assert isinstance(model, ConditionalUNet)
        mean, std, labels = batch
        clean = draw_latents(mean, std, generator)
        labels = null_some(labels, NUM_CLASSES, self.null_share, generator)

        def predict(noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                context = model.class_embedder(labels)
                noisy_NCHW = noisy_NCHW.contiguous(memory_format=torch.channels_last)
                predicted: Tensor = model.unet(noisy_NCHW, timesteps_N, encoder_hidden_states=context).sample
            return predicted

        return noise_loss(predict, clean, ldm_noise_scheduler().alphas_cumprod, generator)

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, ConditionalUNet)
        model.to(memory_format=torch.contiguous_format).half()
        model.unet.save_pretrained(folder / self.name / "unet")
        model.class_embedder.save_pretrained(folder / self.name / "class_embedder")
        ldm_noise_scheduler().save_pretrained(folder / self.name / "scheduler")
        AutoencoderKL.from_pretrained(self.first_stage).half().save_pretrained(folder / self.name / "vae")
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
