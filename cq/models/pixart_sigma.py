"""PixArt-Sigma (arXiv:2403.04692), a text-conditional diffusion transformer, stored as a diffusers folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cq.core.contracts import Sampler
from cq.models.diffusion import Family
from cq.models.stable_diffusion import StableDiffusion, TextModel
from cq.models.stored import check_context, check_text_encoder, index_setting
from cq.sampler.dpmpp import DPMpp

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = {"PixArtSigmaPipeline": 300, "PixArtAlphaPipeline": 120}  # of a prompt, as it was trained


@dataclass(frozen=True, kw_only=True)
class PixArtSigma(StableDiffusion):
    """A folder as diffusers' PixArtSigmaPipeline opens it, or PixArt-alpha's of 512 pixels; else as `StableDiffusion`.

    site: the blocks whose deviation is cached, `blocks.1-27` for 1 to 26.
    """

    family: ClassVar[Family] = "transformer"
    network: ClassVar[str] = "PixArtTransformer2DModel"
    folders: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = tuple(TOKENS)
    solver: ClassVar[Sampler] = DPMpp()
    amended: ClassVar[Mapping[str, Any]] = {}

    def cleaned(self, prompt: str) -> str:
        """Lowered and stripped, as the stock pipeline's `encode_prompt`.

        Its `clean_caption`, which takes punctuation and HTML out, too, works only where two more packages are.
        """
        return prompt.lower().strip()

    def check_conditions(self) -> None:
        """Raise ValueError where text encoder and transformer are not of one model."""
        made = check_text_encoder(self.weights, "text_encoder", kind="t5", width="d_model")
        check_context(self.weights, "transformer", key="caption_channels", made=made, by="its text_encoder")

    def load(self) -> "PixArtModel":
        """Read the weights as float32 in evaluation mode."""
        from transformers import T5EncoderModel, T5Tokenizer

        tokens = TOKENS[index_setting(self.weights, "_class_name", "PixArtSigmaPipeline")]
        return self.opened_with_text(PixArtModel, T5EncoderModel, T5Tokenizer, tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class PixArtModel(TextModel):
    """Text states come with which tokens are there, in a last channel (see `cq.models.pixart`)."""

    def _encode(self, texts: list[str]) -> "Tensor":
        import torch

        tokens = self._tokenized(texts, self.tokenizer, self.tokens)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return torch.cat([states, tokens.attention_mask[..., None].to(states)], dim=-1)
