"""Text-conditional latent diffusion (Stable Diffusion v1) stored as a diffusers folder."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from cq.core.contracts import Sampler
from cq.core.values import Guidance
from cq.models.captions import read_folder, shared
from cq.models.component import Loaded, StoredModel
from cq.models.diffusion import DiffusionModel, Family, Purpose
from cq.models.release import Release
from cq.models.stored import check_context, check_text_encoder, of_subfolder, subfolder_config
from cq.sampler.plms import PLMS

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
class StableDiffusion(StoredModel):
    """A folder as diffusers' StableDiffusionPipeline opens it; see `StoredModel`.

    guidance: scale of classifier-free guidance; up to 1, or None, there is none. prompts: a folder with evaluation.txt
    and calibration.txt, one prompt a line; label i is prompt i (see `cq.models.captions`). The public release
    calibrated on evaluation prompts; a prompt in both files is refused here. release: facts about published weights.
    """

    family: ClassVar[Family] = "unet"
    network: ClassVar[str] = "UNet2DConditionModel"
    folders: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    solver: ClassVar[Sampler] = PLMS()
    amended: ClassVar[Mapping[str, Any]] = {"steps_offset": 1, "clip_sample": False}

    guidance: Guidance | None
    prompts: str
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    release: Release | None

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
        super().check()
        both = shared(self.read_prompts("evaluation"), self.read_prompts("calibration"))
        if both:
            raise ValueError(
                f"model.prompts={self.prompts!r}: {len(both)} prompts are in both files, {min(both)!r} among them. "
                "Nothing may be calibrated on what it is evaluated with: take them out of calibration.txt."
            )

    def check_conditions(self) -> None:
        """Raise ValueError where text encoder and U-Net are not of one model."""
        made = check_text_encoder(self.weights, "text_encoder", kind="clip_text_model", width="hidden_size")
        check_context(self.weights, "unet", key="cross_attention_dim", made=made, by="its text_encoder")
        of_subfolder(self.weights, "unet", check_plain_text, subfolder_config(self.weights, "unet"))

    def content_digest(self) -> str:
        """SHA-256 of both prompt files, and of what is read of them where that is another text.

        They decide images as the weights do.
        """
        written = [self.read_prompts(purpose) for purpose in PURPOSES]
        texts = ["\n".join(prompts) for prompts in written]
        texts += ["\n".join(map(self.cleaned, prompts)) for prompts in written]
        return hashlib.sha256("\0".join(dict.fromkeys(texts)).encode()).hexdigest()

    def load(self) -> "TextModel":
        """Read the weights as float32 in evaluation mode."""
        from transformers import CLIPTextModel, CLIPTokenizer

        return self.opened_with_text(TextModel, CLIPTextModel, CLIPTokenizer)

    def opened_with_text(
        self, kind: type[Loaded], encoder: Any, tokenizer: Any, *, tokens: int | None = None, **conditions: Any
    ) -> Loaded:
        """As `opened`, with text encoder and tokenizer of these classes. tokens: of a prompt; None for the tokenizer's.

        Evaluation prompts of which the model, as the stock pipeline, reads no more than `tokens` are logged.
        """
        from cq.models.reading import read_module, read_tokenizer

        text_encoder = read_module(encoder, self.weights, "text_encoder")
        reader = read_tokenizer(tokenizer, self.weights, "tokenizer", text_encoder)
        length = tokens or reader.model_max_length
        prompts = {purpose: self.read_prompts(purpose) for purpose in PURPOSES}
        may_be = [text for text in prompts["evaluation"] if len(text.encode()) > length - 2]  # a byte each, at most
        cut = [text for text in may_be if len(reader(self.cleaned(text)).input_ids) > length]
        if cut:
            log.warning(
                "model.prompts=%r: %d of %d evaluation prompts are longer than %d tokens, and the model reads no more "
                "of them: %r", self.prompts, len(cut), len(prompts["evaluation"]), length, cut[0],
            )  # fmt: skip
        return self.opened(
            kind, text_encoder=text_encoder, tokenizer=reader, tokens=length, prompts=prompts, **conditions
        )


@dataclass(frozen=True, kw_only=True)
class TextModel(DiffusionModel):
    """Text encoder and tokenizer beside the denoiser. tokens: of a prompt. prompts: by purpose."""

    component: StableDiffusion
    text_encoder: Any
    tokenizer: Any
    tokens: int
    prompts: Mapping[Purpose, tuple[str, ...]]

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
        tokens = self._tokenized(texts, self.tokenizer, self.tokens)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)  # a setting of Stable Diffusion's
        mask_NL = tokens.attention_mask if masked else None
        states: Tensor = self.text_encoder(tokens.input_ids, attention_mask=mask_NL)[0]
        return states

    def _tokenized(self, texts: list[str], tokenizer: Any, length: int) -> Any:
        """input_ids and attention_mask [N, length] on the model's device."""
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return tokens.to(self.device)
