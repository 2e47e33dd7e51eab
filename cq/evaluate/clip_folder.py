"""A contrastive image-text model as a folder in open_clip's layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self

from cq.core.checksum import digest_of, file_digest
from cq.evaluate.clip_judge import Judge, check_finite, opening
from cq.evaluate.protocol import MetricUnavailable
from cq.models.files import check_tokenizer, first_line
from cq.models.headers import fault_of
from cq.models.locate import locate

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"  # the one open_clip takes where a folder holds several
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClipFolder:
    """reference: as the configuration names it. config: of the model. tokenizer_files: those that are there."""

    reference: str
    path: Path
    config: dict[str, Any]
    tokenizer_files: tuple[str, ...]

    @classmethod
    def of(cls, reference: str, *, metric: str) -> Self:
        """The folder, with its heads looked at. MetricUnavailable where there is none, ValueError for a damaged one."""
        try:
            folder = locate(reference)
        except ValueError as error:
            raise MetricUnavailable(f"{metric}: {error}") from error
        for needed in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / needed).is_file():
                raise ValueError(
                    f"folder={reference!r}: {folder} holds no {needed}. Give a folder in open_clip's layout."
                )
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
            text, _ = dict(config["text_cfg"]), dict(config["vision_cfg"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"folder={reference!r}: {folder / CONFIG_FILE} describes no model ({first_line(error)}). It must "
                "hold model_cfg with text_cfg and vision_cfg; get the file again."
            ) from error
        fault = fault_of(folder / WEIGHTS_FILE)
        if fault is not None:
            raise ValueError(f"folder={reference!r}: {folder / WEIGHTS_FILE} {fault}. Get the file again.")
        if "hf_model_name" in text:
            raise ValueError(
                f"folder={reference!r}: open_clip fetches its text tower {text['hf_model_name']!r} from a hub, and "
                "metrics download nothing. Choose a model whose text tower is open_clip's own."
            )
        tokenizer = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
        if text.get("hf_tokenizer_name") and not tokenizer:
            raise ValueError(
                f"folder={reference!r}: {folder} holds no tokenizer, and {CONFIG_FILE} asks for one. "
                f"Put {TOKENIZER_FILES[0]} there."
            )
        if text.get("hf_tokenizer_name"):
            try:
                check_tokenizer(folder)
            except ValueError as error:
                raise ValueError(f"folder={reference!r}: {error}") from error
        return cls(reference=reference, path=folder, config=config, tokenizer_files=tuple(tokenizer))

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """open_clip's reader of captions. Raises ValueError where its files cannot be opened."""
        import open_clip

        try:
            tokenize: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(f"local-dir:{self.path}")
            tokenize(["a prompt"])
        except Exception as error:  # of transformers or tokenizers: each has its own
            raise ValueError(
                f"folder={self.reference!r}: the tokenizer in {self.path} cannot be opened ({first_line(error)}). Get "
                "its files again: tokenizer.json, or vocab.json and merges.txt, with tokenizer_config.json."
            ) from error
        return tokenize

    def judge(self) -> Judge:
        """The model, loaded. Raises ValueError where its weights are not those of its configuration."""
        import open_clip

        with opening(
            f"folder={self.reference!r}", self.path / WEIGHTS_FILE, self.config,
            f"Get it and {CONFIG_FILE} again, as they were saved.",
        ):  # fmt: skip
            model, transform = open_clip.create_model_from_pretrained(f"local-dir:{self.path}")
            check_finite(model)
        tokenize = self.tokenizer()
        # the transform and the tokenizer are files here, and change the score as the weights do
        names = (CONFIG_FILE, WEIGHTS_FILE, *self.tokenizer_files)
        return Judge(model.eval(), transform, tokenize, digest_of({n: file_digest(self.path / n) for n in names}))
