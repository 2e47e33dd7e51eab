"""PixArt-Sigma (arXiv:2403.04692), a text-conditional diffusion transformer, stored as a diffusers folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cq.models.diffusion import Family
from cq.models.stable_diffusion import StableDiffusion, TextModel
from cq.models.stored import (
    check_block_site,
    check_context,
    check_decoder,
    check_part,
    check_text_encoder,
    index_setting,
    num_blocks,
    stored_layers,
)

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = {"PixArtSigmaPipeline": 300, "PixArtAlphaPipeline": 120}  # of a prompt, as it was trained


@dataclass(frozen=True, kw_only=True)
class PixArtSigma(StableDiffusion):
    """A folder as diffusers' PixArtSigmaPipeline opens it, or PixArt-alpha's of 512 pixels; else as `StableDiffusion`.

    site: the blocks whose deviation is cached, `blocks.1-27` for 1 to 26.
    """

    family: ClassVar[Family] = "transformer"
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = tuple(TOKENS)
    amended: ClassVar[Mapping[str, Any]] = {}

    def cleaned(self, prompt: str) -> str:
        """Lowered and stripped, as the stock pipeline's `encode_prompt`.

        Its `clean_caption`, which takes punctuation and HTML out, too, works only where two more packages are.
        """
        return prompt.lower().strip()

    @property
    def blocks(self) -> int:
        """How many transformer blocks there are, by the model's configuration."""
        return num_blocks(self.weights)

    def check_network(self) -> None:
        """Raise ValueError for another network, or for a site that it does not have."""
        check_part(self.weights, "transformer", kind="PixArtTransformer2DModel", latent_shape=self.latent_shape)
        check_decoder(self.weights, self.latent_shape, self.image_shape)
        made = check_text_encoder(self.weights, "text_encoder", kind="t5", width="d_model")
        check_context(self.weights, "transformer", key="caption_channels", made=made, by="its text_encoder")
        check_block_site(self.weights, self.site)

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "transformer")

    def load(self) -> "PixArtModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import PixArtTransformer2DModel
        from transformers import T5EncoderModel, T5Tokenizer

        from cq.models.pixart import PixArtCut
        from cq.models.reading import guided, read_first_stage, read_part, read_tokenizer
        from cq.sampler.dpmpp import DPMpp

        network = PixArtCut(read_part(PixArtTransformer2DModel, self.weights, "transformer"))
        text_encoder = read_part(T5EncoderModel, self.weights, "text_encoder")
        tokenizer = read_tokenizer(T5Tokenizer, self.weights, "tokenizer", text_encoder)
        tokens = TOKENS[index_setting(self.weights, "_class_name", "PixArtSigmaPipeline")]
        return PixArtModel(
            component=self,
            denoiser=guided(network, self),
            vae=read_first_stage(self.weights),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            tokens=tokens,
            prompts=self.prompts_for(tokenizer, tokens),
            sampler=DPMpp(),
        )


@dataclass(frozen=True, kw_only=True)
class PixArtModel(TextModel):
    """Text states come with which tokens are there, in a last channel (see `cq.models.pixart`).

    tokens: of a prompt.
    """

    tokens: int

    def _encode(self, texts: list[str]) -> "Tensor":
        import torch

        tokens: Any = self.tokenizer(
            texts, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        mask_NL = tokens.attention_mask.to(self.device)
        states = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask_NL)[0]
        return torch.cat([states, mask_NL[..., None].to(states)], dim=-1)
