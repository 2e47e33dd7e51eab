"""dit_mini: a class-conditional diffusion transformer (DiT, arXiv:2212.09748) on the latents of ldm_mini."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.zoo.data import CLASS_NAMES
from experiments.zoo.recipes.diffusion import (
    draw_latents,
    latents_of,
    ldm_noise_scheduler,
    noise_loss,
    null_some,
    ship_first_stage,
    write_model_index,
)

NULL_CLASS = 1000  # diffusers' DiTPipeline has ImageNet's null class written into it; classes 0 to 9 are ours


@dataclass(frozen=True, kw_only=True)
class DiTRecipe:
    """Eight blocks with adaLN-zero on 16 tokens; the network predicts the noise and no variance."""

    root: Path
    first_stage: Path
    latents: Path  # where the encoded training set is kept between runs
    bf16: bool = True
    name: str = "dit_mini"
    num_steps: int = 7_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.9995
    seed: int = 31
    null_share: float = 0.1

    def model(self) -> nn.Module:
        transformer = DiTTransformer2DModel(
            num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=4, num_layers=8,
            sample_size=8, patch_size=2, num_embeds_ada_norm=NULL_CLASS,
        )  # fmt: skip
        for block in transformer.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # would null a class in one block and not in the next
            nn.init.zeros_(block.norm1.linear.weight)  # adaLN-zero: every block starts as the identity
            nn.init.zeros_(block.norm1.linear.bias)
        nn.init.zeros_(transformer.proj_out_2.weight)
        nn.init.zeros_(transformer.proj_out_2.bias)
        model: nn.Module = transformer
        return model

    def data(self) -> tuple[Tensor, ...]:
        return latents_of(self.first_stage, self.root, self.latents)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        mean, std, labels = batch
        clean = draw_latents(mean, std, generator)
        labels = null_some(labels, NULL_CLASS, self.null_share, generator)

        def predict(noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
            # the fused attention's backward pass in bfloat16 is slower on CPUs than everything else together
            with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
                predicted: Tensor = model(noisy_NCHW, timestep=timesteps_N, class_labels=labels).sample
            return predicted

        return noise_loss(predict, clean, ldm_noise_scheduler().alphas_cumprod, generator)

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, DiTTransformer2DModel)
        model.half().save_pretrained(folder / self.name / "transformer")
        ldm_noise_scheduler().save_pretrained(folder / self.name / "scheduler")
        ship_first_stage(self.first_stage, folder / self.name / "vae")
        write_model_index(
            folder / self.name,
            pipeline="DiTPipeline",
            parts={
                "transformer": ("diffusers", "DiTTransformer2DModel"),
                "vae": ("diffusers", "AutoencoderKL"),
                "scheduler": ("diffusers", "DDIMScheduler"),
            },
            settings={"id2label": {str(k): name for k, name in enumerate(CLASS_NAMES)}},
        )
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
