"""ddpm_mini: an unconditional model in pixel space, the topology of google/ddpm-cifar10-32 in small."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit
from experiments.zoo.recipes.diffusion import noise_loss, write_model_index
from experiments.zoo.recipes.precision import mixed_precision, with_float32_norms


def ddpm_noise_scheduler() -> DDPMScheduler:
    """The settings of DDPM's CIFAR-10 model (arXiv:2006.11239): linear betas, clipped predictions."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=True,
        variance_type="fixed_large",
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


@dataclass(frozen=True, kw_only=True)
class PixelDiffusionRecipe:
    """Noise prediction with min-SNR weights (arXiv:2303.09556, gamma 5) on grey garments of 32 pixels.

    channels: of the finest level. Everything else is the CIFAR-10 model's: multipliers 1, 2, 2, 2, two ResNets a
    block, attention at 16x16 and in the middle.
    """

    root: Path
    channels: int = 16
    norm_groups: int = 8
    bf16: bool = False  # convolutions of so few channels gain nothing
    name: str = "ddpm_mini"
    num_steps: int = 10_500
    batch_size: int = 48
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.9995
    seed: int = 41

    def model(self) -> nn.Module:
        channels = self.channels
        unet = UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            block_out_channels=(channels, 2 * channels, 2 * channels, 2 * channels),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            norm_num_groups=self.norm_groups,
        )
        return with_float32_norms(unet)

    def data(self) -> tuple[Tensor, ...]:
        return (fashion_mnist("train", self.root)[0],)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        def predict(noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
            with mixed_precision(self.bf16):
                noisy_NCHW = noisy_NCHW.contiguous(memory_format=torch.channels_last)
                predicted: Tensor = model(noisy_NCHW, timesteps_N).sample
            return predicted

        return noise_loss(predict, to_unit(batch[0]), ddpm_noise_scheduler().alphas_cumprod, generator)

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, UNet2DModel)
        home = folder / self.name
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(home / "unet")
        ddpm_noise_scheduler().save_pretrained(home / "scheduler")
        parts = {"unet": ("diffusers", "UNet2DModel"), "scheduler": ("diffusers", "DDPMScheduler")}
        write_model_index(home, pipeline="DDPMPipeline", parts=parts, settings={})
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
