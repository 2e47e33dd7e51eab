"""sd_mini: a Stable Diffusion v1 in small, trained on captioned scenes."""

from dataclasses import dataclass, field
from pathlib import Path

import open_clip
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from experiments.zoo.recipes.diffusion import (
    draw_latents,
    encoded_once,
    noise_loss,
    null_some,
    ship_first_stage,
    write_model_index,
)
from experiments.zoo.recipes.precision import mixed_precision, with_float32_norms
from experiments.zoo.scenes import Share, caption, choices, combinations, scenes
from experiments.zoo.text_tower import to_transformers
from experiments.zoo.tokens import END, START, caption_tokens, null_tokens, vocabulary, write_tokenizer


def sd_noise_scheduler() -> PNDMScheduler:
    """The settings of Stable Diffusion v1."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


@dataclass(frozen=True, kw_only=True)
class StableDiffusionRecipe:
    """Noise prediction with min-SNR weights on latents of scenes; the text encoder stays as it is.

    As in SD v1 every level but the deepest attends to the text, the last up-block with three ResNets among them.
    A tenth of the captions is replaced by no text.
    """

    root: Path
    first_stage: Path
    text: Path  # an open_clip folder; its text tower becomes the text encoder
    latents: Path  # where the encoded training set is kept between runs
    channels: int = 32
    norm_groups: int = 16
    bf16: bool = True
    name: str = "sd_mini"
    num_steps: int = 9_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.9995
    seed: int = 71
    null_share: float = 0.1
    count: int = 120_000  # scenes, two of each garment
    _kept: list[Tensor] = field(default_factory=list, repr=False)

    def text_encoder(self) -> CLIPTextModel:
        """The trained text tower, float32."""
        clip = open_clip.create_model(f"local-dir:{self.text}", require_pretrained=True)
        return to_transformers(clip, start=vocabulary()[START], end=vocabulary()[END])

    def model(self) -> nn.Module:
        channels = self.channels
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(channels, 2 * channels, 2 * channels),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=self.text_encoder().config.hidden_size,
            attention_head_dim=4,
            norm_num_groups=self.norm_groups,
        )
        return with_float32_norms(unet)

    def data(self) -> tuple[Tensor, ...]:
        keep = self.latents.with_name(f"{self.latents.name}_{self.seed}_{self.count}")
        return encoded_once(
            self.first_stage,
            lambda: scenes("train", self.root, indices=range(self.count), seed=self.seed, share="trained"),
            keep,
        )

    def contexts(self) -> Tensor:
        """float32 [K + 1, CONTEXT, width]: the encoded captions of all combinations and, last, no text."""
        if not self._kept:
            with torch.no_grad():
                tokens = torch.cat([caption_tokens(), null_tokens()])
                self._kept.append(self.text_encoder()(tokens).last_hidden_state)
        return self._kept[0]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        mean, std, which = batch
        clean = draw_latents(mean, std, generator)
        context = self.contexts()[null_some(which, len(combinations()), self.null_share, generator)]

        def predict(noisy_NCHW: Tensor, timesteps_N: Tensor) -> Tensor:
            with mixed_precision(self.bf16):
                noisy_NCHW = noisy_NCHW.contiguous(memory_format=torch.channels_last)
                predicted: Tensor = model(noisy_NCHW, timesteps_N, encoder_hidden_states=context).sample
            return predicted

        return noise_loss(predict, clean, sd_noise_scheduler().alphas_cumprod, generator)

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, UNet2DConditionModel)
        home = folder / self.name
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(home / "unet")
        sd_noise_scheduler().save_pretrained(home / "scheduler")
        # float32, because transformers loads a model in the precision of its file and diffusers loads in float32
        self.text_encoder().save_pretrained(home / "text_encoder")
        write_tokenizer(home / "tokenizer")
        ship_first_stage(self.first_stage, home / "vae")
        # what cq.models.stable_diffusion draws and calibrates with: the captions that were held out, and the others
        prompts: dict[str, Share] = {"evaluation": "held_out", "calibration": "trained"}
        for purpose, share in prompts.items():
            lines = [caption(combinations()[k]) for k in torch.cat(choices(share))]
            (home / f"{purpose}.txt").write_text("\n".join(lines) + "\n")
        write_model_index(
            home,
            pipeline="StableDiffusionPipeline",
            parts={
                "unet": ("diffusers", "UNet2DConditionModel"),
                "vae": ("diffusers", "AutoencoderKL"),
                "scheduler": ("diffusers", "PNDMScheduler"),
                "text_encoder": ("transformers", "CLIPTextModel"),
                "tokenizer": ("transformers", "CLIPTokenizer"),
                "safety_checker": None,
                "feature_extractor": None,
                "image_encoder": None,
            },
            settings={"requires_safety_checker": False},
        )
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}
