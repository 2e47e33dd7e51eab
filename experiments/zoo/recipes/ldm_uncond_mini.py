"""ldm_uncond_mini: an unconditional latent diffusion model, LDM-8 LSUN-Churches' topology in small."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from experiments.zoo.recipes.diffusion import draw_latents, latents_of, noise_loss, ship_first_stage
from experiments.zoo.recipes.precision import mixed_precision, with_float32_norms


def church_noise_scheduler() -> DDIMScheduler:
    """The settings of LDM-8 LSUN-Churches (arXiv:2112.10752)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


@dataclass(frozen=True, kw_only=True)
class UnconditionalLatentRecipe:
    """Noise prediction with min-SNR weights on the latents of ldm_mini.

    As in the Churches model: self-attention at every level, scale-shift norms, ResNets that down- and upsample.
    """

    root: Path
    first_stage: Path
    latents: Path  # where the encoded training set is kept between runs
    channels: int = 32
    head_channels: int = 16
    norm_groups: int = 16
    bf16: bool = False
    name: str = "ldm_uncond_mini"
    num_steps: int = 7_500
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.9995
    seed: int = 61

    def model(self) -> nn.Module:
        channels = self.channels
        unet = UNet2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(channels, 2 * channels, 2 * channels),
            layers_per_block=2,
            down_block_types=("AttnDownBlock2D",) * 3,
            up_block_types=("AttnUpBlock2D",) * 3,
            downsample_type="resnet",
            upsample_type="resnet",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=self.head_channels,
            norm_num_groups=self.norm_groups,
        )
        return with_float32_norms(unet)

    def data(self) -> tuple[Tensor, ...]:
        mean, std, _labels = latents_of(self.first_stage, self.root, self.latents)
        return mean, std

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        def predict(noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
            with mixed_precision(self.bf16):
                noisy_NCHW = noisy_NCHW.contiguous(memory_format=torch.channels_last)
                predicted: Tensor = model(noisy_NCHW, timesteps_N).sample
            return predicted

        clean = draw_latents(batch[0], batch[1], generator)
        return noise_loss(predict, clean, church_noise_scheduler().alphas_cumprod, generator)

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, UNet2DModel)
        home = folder / self.name
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(home / "unet")
        church_noise_scheduler().save_pretrained(home / "scheduler")
        ship_first_stage(self.first_stage, home / "vae")
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
