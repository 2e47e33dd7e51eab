"""ldm_mini: the class-conditional latent diffusion model, LDM-4 ImageNet's topology in small."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cq.models.class_embedder import ClassEmbedder
from cq.store import write_atomically
from cq.zoo.data import fashion_mnist
from cq.zoo.recipes.classifiers import to_unit

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
    gamma: float = 5.0
    null_share: float = 0.1

    def noise_scheduler(self) -> DDIMScheduler:
        """The LDM ImageNet settings (specification of the original: scaled-linear betas, offset 1)."""
        return DDIMScheduler(
            num_train_timesteps=1000,
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="epsilon",
            timestep_spacing="leading",
        )

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

    @torch.no_grad()
    def data(self) -> tuple[Tensor, ...]:
        digest = hashlib.sha256()
        for path in sorted(self.first_stage.iterdir()):
            digest.update(path.read_bytes())
        kept = self.latents.with_name(f"{self.latents.name}_{digest.hexdigest()[:12]}.safetensors")
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, save(self._encode()))
        encoded = load_file(kept)
        return encoded["mean"], encoded["std"], encoded["labels"]

    def _encode(self) -> dict[str, Tensor]:
        vae = AutoencoderKL.from_pretrained(self.first_stage).float().eval()
        images, labels = fashion_mnist("train", self.root)
        mean, std = [], []
        for part in torch.split(images, 500):
            posterior = vae.encode(to_unit(part)).latent_dist
            mean.append(posterior.mean * vae.config.scaling_factor)
            std.append(posterior.std * vae.config.scaling_factor)
        return {"mean": torch.cat(mean).contiguous(), "std": torch.cat(std).contiguous(), "labels": labels}

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        assert isinstance(model, ConditionalUNet)
        mean, std, labels = batch
        clean = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (len(clean),), generator=generator)
        alphas = self.noise_scheduler().alphas_cumprod[timesteps]
        noisy = alphas.sqrt()[:, None, None, None] * clean + (1 - alphas).sqrt()[:, None, None, None] * noise
        nulled = torch.rand(len(clean), generator=generator) < self.null_share
        labels = torch.where(nulled, NUM_CLASSES, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            context = model.class_embedder(labels)
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = model.unet(noisy, timesteps, encoder_hidden_states=context).sample
        snr = alphas / (1 - alphas)
        weights = snr.clamp(max=self.gamma) / snr
        loss: Tensor = (weights * (predicted.float() - noise).pow(2).mean((1, 2, 3))).mean()
        return loss

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, ConditionalUNet)
        model.to(memory_format=torch.contiguous_format).half()
        model.unet.save_pretrained(folder / self.name / "unet")
        model.class_embedder.save_pretrained(folder / self.name / "class_embedder")
        self.noise_scheduler().save_pretrained(folder / self.name / "scheduler")
        AutoencoderKL.from_pretrained(self.first_stage).half().save_pretrained(folder / self.name / "vae")
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
