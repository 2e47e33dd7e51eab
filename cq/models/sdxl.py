"""Stable Diffusion XL (arXiv:2307.01952): two text encoders, and a U-Net that is told the size of the image."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cq.models.diffusion import read_first_stage, read_part, read_scheduler
from cq.models.stable_diffusion import StableDiffusion, TextModel
from cq.models.stored import part_folder

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """A folder as diffusers' StableDiffusionXLPipeline opens it; otherwise as `StableDiffusion`."""

    parts: ClassVar[tuple[str, ...]] = (*StableDiffusion.parts, "text_encoder_2", "tokenizer_2")

    def load(self) -> "XLModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        from cq.models.call import CallIndex
        from cq.models.denoiser import GuidedDenoiser
        from cq.models.unet import UNetCut
        from cq.sampler.ddim import DDIM

        tokenizer = CLIPTokenizer.from_pretrained(part_folder(self.weights, "tokenizer"))
        network = UNetCut(read_part(UNet2DConditionModel, self.weights, "unet")).eval()
        denoiser = GuidedDenoiser(
            network=network, sites=(), guidance=self.guidance, null_first=True, call_index=CallIndex()
        )
        return XLModel(
            component=self,
            denoiser=denoiser.with_sites((self.site,)),
            vae=read_first_stage(self.weights),
            text_encoder=read_part(CLIPTextModel, self.weights, "text_encoder"),
            tokenizer=tokenizer,
            text_encoder_2=read_part(CLIPTextModelWithProjection, self.weights, "text_encoder_2"),
            tokenizer_2=CLIPTokenizer.from_pretrained(part_folder(self.weights, "tokenizer_2")),
            prompts=self.prompts_for(tokenizer, tokenizer.model_max_length),
            scheduler=read_scheduler(DDIMScheduler, self.weights, self.release),
            sampler=DDIM(),
        )


@dataclass(frozen=True, kw_only=True)
class XLModel(TextModel):
    """A second text encoder beside Stable Diffusion's parts. The null half is zero, as the released pipeline has it."""

    text_encoder_2: Any
    tokenizer_2: Any

    def _encode(self, texts: list[str]) -> "Tensor":
        """The last but one states of both encoders, and the second's pooled state, in one tensor (`packed`)."""
        import torch

        from cq.models.unet import packed

        states, pooled = [], None
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            tokens = tokenizer(
                texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            )  # fmt: skip
            out = encoder(tokens.input_ids.to(self.device), output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        assert pooled is not None
        context = torch.cat(states, dim=-1)
        if texts == [""]:
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        height, width = self.component.image_shape[1:]
        ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device).expand(len(texts), -1)
        return packed(context, pooled, ids)
