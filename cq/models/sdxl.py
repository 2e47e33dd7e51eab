"""Stable Diffusion XL (arXiv:2307.01952): two text encoders, and a U-Net that is told the size of the image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cq.core.contracts import Sampler
from cq.models.stable_diffusion import StableDiffusion, TextModel
from cq.models.stored import check_context, check_text_encoder, index_setting, of_subfolder, subfolder_config
from cq.sampler.euler import Euler

if TYPE_CHECKING:
    from torch import Tensor

IDS = 6  # original size, crop corner, target size


def check_size_conditions(config: Mapping[str, Any], *, pooled: int) -> None:
    """Raise ValueError for a U-Net that is not told a pooled state of `pooled` numbers, and six of the image's size."""
    kind = config.get("addition_embed_type")
    if kind != "text_time":
        raise ValueError(f"addition_embed_type={kind!r}: XL's U-Net has 'text_time'. Choose another model or folder.")
    taken = config.get("projection_class_embeddings_input_dim")
    told = pooled + IDS * int(config.get("addition_time_embed_dim") or 0)
    if taken != told:
        raise ValueError(
            f"projection_class_embeddings_input_dim={taken}: the pooled text and {IDS} numbers of the image's size "
            f"make {told}. A refiner, which is told a score, does not draw from noise alone: give a base model."
        )
    if pooled + IDS > config["cross_attention_dim"]:
        raise ValueError(
            f"cross_attention_dim={config['cross_attention_dim']}: a row of it must hold a pooled state of {pooled} "
            f"numbers and {IDS} of the size. Give a U-Net of wider states."
        )


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """A folder as diffusers' StableDiffusionXLPipeline opens it; otherwise as `StableDiffusion`."""

    folders: ClassVar[tuple[str, ...]] = (*StableDiffusion.folders, "text_encoder_2", "tokenizer_2")
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    solver: ClassVar[Sampler] = Euler()
    amended: ClassVar[Mapping[str, Any]] = {}
    moments: ClassVar[bool] = True

    def check_conditions(self) -> None:
        """Raise ValueError where text encoders and U-Net are not of one model."""
        made = sum(
            check_text_encoder(self.weights, name, kind="clip_text_model", width="hidden_size")
            for name in ("text_encoder", "text_encoder_2")
        )
        check_context(self.weights, "unet", key="cross_attention_dim", made=made, by="its text encoders together")
        pooled = check_text_encoder(self.weights, "text_encoder_2", kind="clip_text_model", width="projection_dim")
        of_subfolder(self.weights, "unet", check_size_conditions, subfolder_config(self.weights, "unet"), pooled=pooled)

    def load(self) -> "XLModel":
        """Read the weights as float32 in evaluation mode."""
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        from cq.models.reading import read_module, read_tokenizer

        second = read_module(CLIPTextModelWithProjection, self.weights, "text_encoder_2")
        return self.opened_with_text(
            XLModel, CLIPTextModel, CLIPTokenizer, text_encoder_2=second,
            tokenizer_2=read_tokenizer(CLIPTokenizer, self.weights, "tokenizer_2", second),
            zero_null=bool(index_setting(self.weights, "force_zeros_for_empty_prompt", True)),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class XLModel(TextModel):
    """A second text encoder beside what Stable Diffusion has.

    zero_null: whether zeros stand for no prompt, as model_index.json says (`force_zeros_for_empty_prompt`), or the
    states of an empty one.
    """

    text_encoder_2: Any
    tokenizer_2: Any
    zero_null: bool

    def _null(self) -> "Tensor":
        from cq.models.unet import packed

        context, pooled = self._states([""])
        if self.zero_null:
            context, pooled = context.new_zeros(context.shape), pooled.new_zeros(pooled.shape)
        return packed(context, pooled, self._size(1))

    def _encode(self, texts: list[str]) -> "Tensor":
        """Both encoders' states, the pooled state, and the size of the image, in one tensor (`packed`)."""
        from cq.models.unet import packed

        return packed(*self._states(texts), self._size(len(texts)))

    def _size(self, count: int) -> "Tensor":
        import torch

        height, width = self.component.image_shape[1:]
        return torch.tensor([[height, width, 0, 0, height, width]], device=self.device).expand(count, -1)

    def _states(self, texts: list[str]) -> "tuple[Tensor, Tensor]":
        """The last but one states of both encoders side by side, and the second's pooled state."""
        import torch

        states, pooled = [], None
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            tokens = self._tokenized(texts, tokenizer, tokenizer.model_max_length)
            out = encoder(tokens.input_ids, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        assert pooled is not None
        return torch.cat(states, dim=-1), pooled
