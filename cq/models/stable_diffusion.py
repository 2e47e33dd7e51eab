"""Text-conditional latent diffusion (Stable Diffusion v1's parts) stored as a diffusers folder."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from cq.core.values import Guidance
from cq.models.captions import read_folder, shared
from cq.models.diffusion import (
    Family,
    LatentSpaceModel,
    Purpose,
    check_folder,
    folder_digest,
    stored_noise,
)
from cq.models.release import CAME_LATER, Release
from cq.models.stored import (
    check_context,
    check_decoder,
    check_part,
    check_text_encoder,
    of_part,
    part_config,
    stored_layers,
)

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def check_plain_text(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a U-Net that is told more than the prompt."""
    if config.get("addition_embed_type") is not None:
        raise ValueError(
            f"addition_embed_type={config['addition_embed_type']!r}: Stable Diffusion's U-Net is told nothing beside "
            "the prompt, and XL's is. Choose model=sdxl, or another folder."
        )


@dataclass(frozen=True, kw_only=True)
class StableDiffusion:
    """A folder with unet, vae, text_encoder, tokenizer and scheduler, as diffusers' StableDiffusionPipeline opens it.

    weights: `zoo:NAME`, `hub:ORG/NAME@REVISION` or a local folder. site: the entry ResNet of the cut. guidance: scale
    of classifier-free guidance; up to 1, or None, there is none. prompts: a folder with evaluation.txt and
    calibration.txt, one prompt a line; label i is prompt i (see `cq.models.captions`). The public release calibrated on
    evaluation prompts; a prompt in both files is refused here. release: facts about published weights.
    """

    family: ClassVar[Family] = "unet"

    weights: str
    site: str
    guidance: Guidance | None
    prompts: str
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None = field(metadata=CAME_LATER)

    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    amended: ClassVar[Mapping[str, Any]] = {"steps_offset": 1, "clip_sample": False}  # by the stock pipeline, if stored

    @property
    def noise(self) -> Mapping[str, Any]:
        """The stored scheduler's configuration, as the stock pipeline reads it."""
        return {**stored_noise(self.weights, self.release), **self.amended}

    @property
    def blocks(self) -> int:
        """Transformer blocks that a strategy can name; none in a U-Net."""
        return 0

    @property
    def num_classes(self) -> int:
        """How many evaluation prompts there are."""
        return len(self.read_prompts("evaluation"))

    def read_prompts(self, purpose: Purpose) -> tuple[str, ...]:
        """The prompts of one file. Raises ValueError where it is missing, empty or not as `captions` reads it."""
        return read_folder(self.prompts, purpose, key="model.prompts")

    def cleaned(self, prompt: str) -> str:
        """What the text encoder is given of a prompt: as the stock pipeline, all of it."""
        return prompt

    def check(self) -> None:
        """Raise ValueError, before anything is loaded, for a model, prompts or a site that are not there."""
        check_folder(self.weights, self.parts, self.release, pipelines=self.pipelines)
        self.check_network()
        both = shared(self.read_prompts("evaluation"), self.read_prompts("calibration"))
        if both:
            raise ValueError(
                f"model.prompts={self.prompts!r}: {len(both)} prompts are in both files, {min(both)!r} among them. "
                "Nothing may be calibrated on what it is evaluated with: take them out of calibration.txt."
            )

    def check_network(self) -> None:
        """Raise ValueError for another network, or for a site that it does not have."""
        from cq.models.sites import check_cut, cuts_of

        check_part(self.weights, "unet", kind="UNet2DConditionModel", latent_shape=self.latent_shape)
        self.check_conditions()
        check_cut(self.site, cuts_of(part_config(self.weights, "unet")))

    def check_conditions(self) -> None:
        """Raise ValueError where first stage, text encoder and U-Net are not of one model."""
        check_decoder(self.weights, self.latent_shape, self.image_shape)
        made = check_text_encoder(self.weights, "text_encoder", kind="clip_text_model", width="hidden_size")
        check_context(self.weights, "unet", key="cross_attention_dim", made=made, by="its text_encoder")
        of_part(self.weights, "unet", check_plain_text, part_config(self.weights, "unet"))

    def content_digest(self) -> str:
        """SHA-256 of both prompt files, and of what is read of them where that is another text.

        They decide images as the weights do.
        """
        written = [self.read_prompts(purpose) for purpose in PURPOSES]
        texts = ["\n".join(prompts) for prompts in written]
        texts += ["\n".join(map(self.cleaned, prompts)) for prompts in written]
        return hashlib.sha256("\0".join(dict.fromkeys(texts)).encode()).hexdigest()

    def layers(self) -> frozenset[str] | None:
        """Layers of the denoiser, and perhaps embeddings; see `stored_layers`."""
        return stored_layers(self.weights, "unet")

    def load(self) -> "TextModel":
        """Read the weights as float32 in evaluation mode."""
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        from cq.models.reading import guided, read_first_stage, read_part, read_tokenizer
        from cq.models.unet import UNetCut
        from cq.sampler.plms import PLMS

        network = UNetCut(read_part(UNet2DConditionModel, self.weights, "unet"))
        text_encoder = read_part(CLIPTextModel, self.weights, "text_encoder")
        tokenizer = read_tokenizer(CLIPTokenizer, self.weights, "tokenizer", text_encoder)
        return TextModel(
            component=self,
            denoiser=guided(network, self),
            vae=read_first_stage(self.weights),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            prompts=self.prompts_for(tokenizer, tokenizer.model_max_length),
            sampler=PLMS(),
        )

    def weights_digest(self) -> str:
        """SHA-256 over the names and bytes of every file of the model."""
        return folder_digest(self.weights)

    def prompts_for(self, tokenizer: Any, tokens: int) -> dict[Purpose, tuple[str, ...]]:
        """The prompts of both files; those that the model, as the stock pipeline, reads only `tokens` of are told."""
        prompts = {purpose: self.read_prompts(purpose) for purpose in PURPOSES}
        may_be = [text for text in prompts["evaluation"] if len(text.encode()) > tokens - 2]  # a byte each, at most
        cut = [text for text in may_be if len(tokenizer(self.cleaned(text)).input_ids) > tokens]
        if cut:
            log.warning(
                "model.prompts=%r: %d of %d evaluation prompts are longer than %d tokens, and the model reads no more "
                "of them: %r", self.prompts, len(cut), len(prompts["evaluation"]), tokens, cut[0],
            )  # fmt: skip
        return prompts


@dataclass(frozen=True, kw_only=True)
class TextModel(LatentSpaceModel):
    """First stage, text encoder and tokenizer beside the denoiser."""

    component: StableDiffusion
    text_encoder: Any
    tokenizer: Any
    prompts: dict[Purpose, tuple[str, ...]]

    def condition(self, labels_N: "Tensor", purpose: Purpose = "evaluation") -> "Tensor":
        """Text states [2N, tokens, dim]: first of the empty prompt, then of each label's; as diffusers encodes them.

        Without guidance those of the labels alone, [N, tokens, dim]. Calibration labels count round its own prompts.
        """
        import torch

        lines = self.prompts[purpose]
        texts = [self.component.cleaned(lines[int(label) % len(lines)]) for label in labels_N]
        with torch.no_grad():
            if self.denoiser.guidance is None:
                return self._encode(texts)
            return torch.cat([self._null().expand(len(texts), -1, -1), self._encode(texts)])

    def captions(self, labels_N: "Tensor") -> tuple[str, ...]:
        """The evaluation prompt of each label."""
        return tuple(self.prompts["evaluation"][int(label)] for label in labels_N)

    def _null(self) -> "Tensor":
        """What stands for no prompt, [1, tokens, dim]."""
        return self._encode([""])

    def _encode(self, texts: list[str]) -> "Tensor":
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)  # a setting of Stable Diffusion's
        mask_NL = tokens.attention_mask.to(self.device) if masked else None
        states: Tensor = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask_NL)[0]
        return states
