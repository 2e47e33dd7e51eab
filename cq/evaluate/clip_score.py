"""CLIP score: how well each image fits its caption, in the eyes of a contrastive image-text model.

arXiv:2104.08718. Nothing here downloads: what is missing is an error that says what to fetch and where to put it.
Legend of shape suffixes: N image, C channel, H W space, E embedding.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cq.core.checksum import file_digest
from cq.core.contracts import Better, Drawn
from cq.core.values import Batch, Resamples
from cq.evaluate.bootstrap import check_resamples
from cq.evaluate.clip_folder import WEIGHTS_FILE, ClipFolder
from cq.evaluate.clip_judge import Judge, check_captioned, check_finite, fits, opening, score_captions
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.models.headers import fault_of

FROM_A_HUB = ("hf_model_name", "hf_tokenizer_name")  # keys of a text tower that open_clip would go and fetch


@dataclass(frozen=True, kw_only=True)
class ClipScore:
    """`clip_score_BACKBONE_PRETRAINED`: the score by a model that open_clip knows by name.

    As published for diffusion models: 100 times the cosine, captions as they are. Deviation from the paper: its weight
    is 2.5, and it puts "A photo depicts" before each caption. torchmetrics' CLIPScore sets the mean to zero where it is
    negative, not each image.

    backbone: one of `open_clip.list_models()`. pretrained: open_clip's tag of its weights, which also says how images
    are resized and normalized, or None for weights of another origin and OpenAI's transform. weights: their local file.
    """

    backbone: str
    pretrained: str | None
    weights: str
    batch_size: Batch
    device: str
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        import open_clip

        check_resamples(self.resamples)
        if self.backbone not in open_clip.list_models():
            raise ValueError(f"backbone={self.backbone!r}: open_clip knows no such model. See open_clip.list_models().")
        text = open_clip.get_model_config(self.backbone)["text_cfg"]
        if fetched := [key for key in FROM_A_HUB if key in text]:
            raise ValueError(
                f"backbone={self.backbone!r}: open_clip fetches its {fetched[0]}={text[fetched[0]]!r} from a hub, and "
                "metrics download nothing. Fetch the model's whole folder and use FolderClipScore, as clip_score_own."
            )
        tags = open_clip.list_pretrained_tags_by_model(self.backbone)
        if self.pretrained is not None and self.pretrained not in tags:
            raise ValueError(
                f"pretrained={self.pretrained!r}: open_clip has no such weights of {self.backbone}. "
                f"Choose from {', '.join(tags)}, or null for weights of your own."
            )

    @property
    def metric(self) -> str:
        named = f"clip_score_{self.backbone}_{self.pretrained or ''}".lower()
        return re.sub(r"[^0-9a-z]+", "_", named).strip("_")

    @property
    def better(self) -> Better:
        return {self.metric: "up"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        return score_captions(
            context,
            self.load,
            metric=self.metric,
            backbone=f"open_clip {self.backbone}, {self.pretrained or 'own weights'}",
            batch_size=self.batch_size,
            device=self.device,
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images without captions or other weights, MetricUnavailable where they are missing."""
        import open_clip

        check_captioned(drawn, self.device)
        self._tag()
        if not fits(Path(self.weights), open_clip.get_model_config(self.backbone)):
            self.load()

    def _tag(self) -> Mapping[str, Any]:
        """What open_clip knows of the weights. MetricUnavailable, naming the download, where they are missing."""
        import open_clip

        tag = open_clip.get_pretrained_cfg(self.backbone, self.pretrained) if self.pretrained else {}
        if not Path(self.weights).is_file():
            raise MetricUnavailable(
                f"{self.metric}: needs the weights of {self.backbone}. "
                f"{f'Download {_url(tag)} to' if tag else 'Put them at'} {self.weights}."
            )
        fault = fault_of(Path(self.weights))
        if fault is not None:
            raise ValueError(f"weights={self.weights!r}: {fault}. Get the file again.")
        return dict(tag)

    def load(self) -> Judge:
        """Raises MetricUnavailable, naming the download, where the weights are missing."""
        import open_clip

        tag = self._tag()
        # by file and not by tag, for which open_clip may go to the network; so what the tag says is passed on by hand
        with opening(
            f"weights={self.weights!r}", Path(self.weights), open_clip.get_model_config(self.backbone),
            f"Get the file again, or choose the backbone it is of, which is not {self.backbone}.",
        ):  # fmt: skip
            model, transform = open_clip.create_model_from_pretrained(
                self.backbone,
                pretrained=self.weights,
                force_quick_gelu=tag.get("quick_gelu", False),
                image_mean=tag.get("mean"),
                image_std=tag.get("std"),
                image_interpolation=tag.get("interpolation"),
                image_resize_mode=tag.get("resize_mode"),
            )
            check_finite(model)
        digest = file_digest(Path(self.weights))
        return Judge(model.eval(), transform, open_clip.get_tokenizer(self.backbone), digest)


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """One `clip_score_BACKBONE_PRETRAINED` for each of several models: published scores often leave open by which.

    backbones: open_clip's name and tag of each, as `ViT-B-32/openai`. weights: the folder of their files.
    """

    backbones: tuple[str, ...]
    weights: str
    batch_size: Batch
    device: str
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        if not self.backbones or len(set(self.backbones)) < len(self.backbones):
            raise ValueError(f"backbones={list(self.backbones)}: must name at least one, and each once.")
        for named in self.backbones:
            if named.count("/") != 1:
                raise ValueError(f"backbones={named!r}: write open_clip's name and tag, as in ViT-B-32/openai.")
        self.judges()

    def judges(self) -> list[ClipScore]:
        """A metric for each backbone. Raises ValueError for one that open_clip does not know."""
        return [
            ClipScore(
                backbone=backbone,
                pretrained=tag,
                weights=str(Path(self.weights) / f"{backbone}_{tag}.safetensors"),
                batch_size=self.batch_size,
                device=self.device,
                resamples=self.resamples,
                bootstrap_seed=self.bootstrap_seed,
            )
            for backbone, tag in (named.split("/") for named in self.backbones)
        ]

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images without captions, MetricUnavailable where weights are missing."""

        def look(judge: ClipScore) -> Mapping[str, Score]:
            judge.check(drawn)
            return {}

        self._of_each(look)

    @property
    def better(self) -> Better:
        return {judge.metric: "up" for judge in self.judges()}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        """Raises MetricUnavailable where weights are missing, with the scores of those that are there."""
        return self._of_each(lambda judge: judge.compute(context))

    def _of_each(self, ask: Callable[[ClipScore], Mapping[str, Score]]) -> Mapping[str, Score]:
        scores: dict[str, Score] = {}
        missing = []
        for judge in self.judges():
            try:
                scores |= ask(judge)
            except MetricUnavailable as error:
                missing.append(str(error))
        if missing:
            raise MetricUnavailable(" ".join(missing), found=scores)
        return scores


@dataclass(frozen=True, kw_only=True)
class FolderClipScore:
    """`clip_score_NAME`: the score by a model from a folder in open_clip's layout; `clip_score_own` is our own judge.

    A score by our own judge must not be compared with published ones. folder: `zoo:clip_judge` or a local folder with
    open_clip_config.json, open_clip_model.safetensors and, unless it is OpenAI's, the files of the tokenizer.
    """

    name: str
    folder: str
    batch_size: Batch
    device: str
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)
        if not re.fullmatch(r"[0-9a-z_]+", self.name):
            raise ValueError(f"name={self.name!r}: becomes part of a key; use lower-case letters, digits and _.")

    @property
    def metric(self) -> str:
        return f"clip_score_{self.name}"

    @property
    def better(self) -> Better:
        return {self.metric: "up"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        return score_captions(
            context,
            self.load,
            metric=self.metric,
            backbone=f"folder, {self.name}",
            batch_size=self.batch_size,
            device=self.device,
            resamples=self.resamples,
            seed=self.bootstrap_seed,
        )

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images without captions or a damaged folder, MetricUnavailable without one."""
        check_captioned(drawn, self.device)
        folder = ClipFolder.of(self.folder, metric=self.metric)
        if fits(folder.path / WEIGHTS_FILE, folder.config):
            folder.tokenizer()
        else:
            folder.judge()

    def load(self) -> Judge:
        """Raises MetricUnavailable where there is no folder, ValueError where it is incomplete."""
        return ClipFolder.of(self.folder, metric=self.metric).judge()


def _url(tag: Mapping[str, Any]) -> str:
    """Where open_clip's weights of a tag lie: on the hub where they are there, as open_clip itself prefers."""
    repository, _, name = str(tag.get("hf_hub", "")).rpartition("/")
    return f"https://huggingface.co/{repository}/resolve/main/{name or WEIGHTS_FILE}" if repository else str(tag["url"])
