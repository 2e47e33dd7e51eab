"""Tiny random-weight models of two architectures, built from the real diffusers classes, in folders of their own."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel

from cq.laws.law import World
from cq.models.class_embedder import ClassEmbedder
from cq.models.latent import LatentDiffusion
from cq.models.transformer import DiffusionTransformer


def tiny_world(folder: Path) -> World:
    """A U-Net and a transformer, in `folder`."""
    write_tiny_ldm(folder / "unet")
    write_tiny_dit(folder / "transformer")
    return World(
        folder,
        {
            "unet": LatentDiffusion(
                weights=str(folder / "unet"), site="up_blocks.2.resnets.2", guidance=1.5, num_classes=10,
                latent_shape=(4, 8, 8), image_shape=(1, 32, 32), release=None,
            ),
            "transformer": DiffusionTransformer(
                weights=str(folder / "transformer"), site="blocks.1-4", guidance=1.5, num_classes=10,
                latent_shape=(4, 8, 8), image_shape=(1, 32, 32), release=None,
            ),
        },
    )  # fmt: skip


def noise_scheduler() -> DDIMScheduler:
    """The settings of LDM ImageNet: scaled-linear betas, offset 1 (arXiv:2112.10752)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon", timestep_spacing="leading",
    )  # fmt: skip


def tiny_conditional_unet() -> UNet2DConditionModel:
    """LDM-4's layout, with attention at the coarsest level alone; a few thousand parameters."""
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def tiny_transformer(*, out_channels: int = 4, blocks: int = 5) -> DiTTransformer2DModel:
    """DiT's layout: adaLN-zero blocks on patches; nothing is zero, so that every block matters."""
    torch.manual_seed(5)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=out_channels, num_layers=blocks,
        sample_size=8, patch_size=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return model.eval()


def tiny_vae(channels: int) -> AutoencoderKL:
    torch.manual_seed(4)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=1.0,
    ).eval()


def write_tiny_ldm(folder: Path) -> None:
    unet = tiny_conditional_unet()
    unet.save_pretrained(folder / "unet")
    torch.manual_seed(4)
    ClassEmbedder(num_classes=10, dim=8).save_pretrained(folder / "class_embedder")
    tiny_vae(1).save_pretrained(folder / "vae")
    noise_scheduler().save_pretrained(folder / "scheduler")


def write_tiny_dit(folder: Path) -> None:
    tiny_transformer().save_pretrained(folder / "transformer")
    tiny_vae(1).save_pretrained(folder / "vae")
    noise_scheduler().save_pretrained(folder / "scheduler")
