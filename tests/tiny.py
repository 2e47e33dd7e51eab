"""Tiny random-weight models of the true architectures, built from the real diffusers classes."""

import json
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from cq.laws.tiny import noise_scheduler as ldm_noise_scheduler
from cq.laws.tiny import tiny_conditional_unet as tiny_conditional_unet
from cq.laws.tiny import tiny_transformer as tiny_transformer
from cq.laws.tiny import tiny_vae as tiny_vae
from cq.laws.tiny import write_tiny_dit as write_tiny_dit
from cq.laws.tiny import write_tiny_ldm as write_tiny_ldm


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


def tiny_text_unet() -> UNet2DConditionModel:
    """Stable Diffusion's layout: attention in the last up-block, where it is cut."""
    torch.manual_seed(6)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def write_tiny_uncond(folder: Path) -> None:
    tiny_church_unet().save_pretrained(folder / "unet")
    tiny_vae(1).save_pretrained(folder / "vae")
    ldm_noise_scheduler().save_pretrained(folder / "scheduler")


def write_tiny_ddpm(folder: Path) -> None:
    tiny_pixel_unet().save_pretrained(folder / "unet")
    DDIMScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")


def write_tiny_sd(folder: Path) -> None:
    """A StableDiffusionPipeline that stock diffusers opens, and prompts for it."""
    torch.manual_seed(7)
    text = CLIPTextConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    tokenizer = letter_tokenizer(folder, length=8)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(3), text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=tiny_text_unet(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    write_prompts(folder)


def write_tiny_sdxl(folder: Path) -> None:
    """A StableDiffusionXLPipeline that stock diffusers opens, and prompts for it."""
    torch.manual_seed(8)
    text = {
        "vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 8, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53, "projection_dim": 12,
    }  # fmt: skip
    tokenizer = letter_tokenizer(folder, length=8)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2, norm_num_groups=4, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=12 + 6 * 4, use_linear_projection=True,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=tiny_vae(3), text_encoder=CLIPTextModel(CLIPTextConfig(**text)).eval(), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)).eval(), tokenizer_2=tokenizer,
        unet=unet.eval(), scheduler=ldm_noise_scheduler(), add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    write_prompts(folder)


def write_tiny_pixart(folder: Path) -> None:
    """A PixArtSigmaPipeline that stock diffusers opens, and prompts for it."""
    torch.manual_seed(9)
    letters = [(letter, -3.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)
    text = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=5, sample_size=8,
        cross_attention_dim=16, caption_channels=16, use_additional_conditions=False,
    )  # fmt: skip
    PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=T5EncoderModel(text).eval(), vae=tiny_vae(3),
        transformer=transformer.eval(), scheduler=ldm_noise_scheduler(),
    ).save_pretrained(folder)  # fmt: skip
    write_prompts(folder)


def write_prompts(folder: Path) -> None:
    (folder / "evaluation.txt").write_text("a cat\na dog\na red hat\n")
    (folder / "calibration.txt").write_text("a cow\na pig\n")


def letter_tokenizer(folder: Path, *, length: int) -> CLIPTokenizer:
    """CLIP's tokenizer with 54 tokens; its files stay in `folder`."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)
