"""Tiny random-weight models of the true architectures, built from the real diffusers classes."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

from cq.models.class_embedder import ClassEmbedder
from cq.zoo.recipes.diffusion import ldm_noise_scheduler


def tiny_conditional_unet() -> UNet2DConditionModel:
    """LDM-4's layout (no attention at the finest level), a few thousand parameters."""
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def tiny_pixel_unet() -> UNet2DModel:
    """DDPM CIFAR-10's layout: attention at one level, four levels, no conditioning."""
    torch.manual_seed(2)
    return UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    ).eval()


def tiny_church_unet() -> UNet2DModel:
    """LDM-8 Church's traits: scale-shift norm, ResNets that down- and upsample, attention at the finest level."""
    torch.manual_seed(3)
    return UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=4,
        attention_head_dim=4,
    ).eval()


def write_tiny_ldm(folder: Path) -> None:
    unet = tiny_conditional_unet()
    unet.save_pretrained(folder / "unet")
    torch.manual_seed(4)
    ClassEmbedder(num_classes=10, dim=8).save_pretrained(folder / "class_embedder")
    AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=1.0,
    ).save_pretrained(folder / "vae")
    ldm_noise_scheduler().save_pretrained(folder / "scheduler")
