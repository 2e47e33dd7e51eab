"""CLIP score: how well each image fits its caption, in the eyes of a contrastive image-text model.

arXiv:2104.08718. Nothing here downloads: what is missing is an error that says what to fetch and where to put it.
Legend of shape suffixes: N image, C channel, H W space, E embedding.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cq.artifacts import digest_of
from cq.contracts import Drawn
from cq.evaluate.bootstrap import METHOD, check_resamples, interval_of_mean
from cq.evaluate.features import check_device, check_images, check_shape, sha256_of_file
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.failures import out_of_memory
from cq.heads import fault_of, shapes_of
from cq.models.files import check_tokenizer, differing, first_line, listed
from cq.values import Batch, Resamples
from cq.zoo.locate import locate

DEFINITION = "mean of 100 max(cos(image, caption), 0), captions as they are"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"  # the one open_clip takes where a folder holds several
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip
FROM_A_HUB = ("hf_model_name", "hf_tokenizer_name")  # keys of a text tower that open_clip would go and fetch


@dataclass(frozen=True)
class Judge:
    """A contrastive model in float32 and evaluation mode, with the image transform and tokenizer it was trained with.

    digest: SHA-256 of what makes its scores. transform: a PIL image to a float tensor [C, H, W].
    """

    model: nn.Module
    transform: Callable[[Any], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    digest: str

    @torch.no_grad()
    def scores(self, images_NCHW: Tensor, captions: tuple[str, ...], *, batch_size: int, device: str) -> Tensor:
        """100 max(cos, 0) of each uint8 image and its caption, float64 [N]; grey images are repeated to colour."""
        from PIL import Image

        check_images(images_NCHW)
        if images_NCHW.shape[1] not in (1, 3):
            raise ValueError(f"images with {images_NCHW.shape[1]} channels: CLIP takes grey (1) or colour (3) images.")
        model = self.model.to(device)
        parts = []
        for start in range(0, len(captions), batch_size):
            batch_NHWC = images_NCHW[start : start + batch_size].expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
            pixels_NCHW = torch.stack([self.transform(Image.fromarray(image_HWC.numpy())) for image_HWC in batch_NHWC])
            tokens = self.tokenize(list(captions[start : start + batch_size]))
            image_NE: Tensor = model.encode_image(pixels_NCHW.to(device))  # type: ignore[operator]
            text_NE: Tensor = model.encode_text(tokens.to(device))  # type: ignore[operator]
            parts.append(torch.cosine_similarity(image_NE.double(), text_NE.double()).cpu())
        return 100 * torch.cat(parts).clamp(min=0)


def check_captioned(drawn: Drawn, device: str) -> None:
    """Raise ValueError for images that no caption can be compared with, or a device that is not here."""
    if not drawn.captioned:
        raise ValueError(
            "images without captions have no CLIP score. Choose a text-to-image model, or evaluate=fidelity"
        )
    check_shape(drawn.shape, "CLIP")
    check_device(device)


def captions_of(context: EvaluationContext, metric: str) -> tuple[str, ...]:
    """One caption an image. Raises MetricUnavailable where there are none, ValueError where the counts differ."""
    num = len(context.samples.images_NCHW)
    if not context.captions:
        raise MetricUnavailable(
            f"{metric}: needs captions, and these images were not drawn from any. Use it with a text-to-image model."
        )
    if len(context.captions) != num:
        raise ValueError(
            f"captions: {len(context.captions)} for {num} images, but {metric} compares each image with its own. "
            "Give one caption an image, in the order of the images."
        )
    return context.captions


def score_captions(
    context: EvaluationContext,
    load: Callable[[], Judge],
    *,
    metric: str,
    backbone: str,
    batch_size: int,
    device: str,
    resamples: int,
    seed: int,
) -> Mapping[str, Score]:
    """The mean over images, with its interval; the judge is loaded only once captions are known to be there."""
    captions = captions_of(context, metric)
    judge = load()
    scores_N = judge.scores(context.samples.images_NCHW, captions, batch_size=batch_size, device=device)
    low, high = interval_of_mean(scores_N, resamples=resamples, seed=seed)
    details = {"definition": DEFINITION, "backbone": backbone, "features": judge.digest}
    protocol = context.protocol(metric, {**details, "interval": f"{METHOD}, {resamples} resamples"})
    return {metric: Score(value=float(scores_N.mean()), low=low, high=high, better="up", protocol=protocol)}


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
        if not _fits(Path(self.weights), open_clip.get_model_config(self.backbone)):
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
        with _opening(
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
            _check_finite(model)
        digest = sha256_of_file(Path(self.weights))
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
        folder, config, _ = self._files()
        if _fits(folder / WEIGHTS_FILE, config):
            self._tokenizer(folder)
        else:
            self.load()

    def _files(self) -> tuple[Path, dict[str, Any], list[str]]:
        """The folder, the configuration of its model, and which files of a tokenizer are in it."""
        try:
            folder = locate(self.folder)
        except ValueError as error:
            raise MetricUnavailable(f"{self.metric}: {error}") from error
        for needed in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / needed).is_file():
                raise ValueError(
                    f"folder={self.folder!r}: {folder} holds no {needed}. Give a folder in open_clip's layout."
                )
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
            text, _ = dict(config["text_cfg"]), dict(config["vision_cfg"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"folder={self.folder!r}: {folder / CONFIG_FILE} describes no model ({first_line(error)}). It must "
                "hold model_cfg with text_cfg and vision_cfg; get the file again."
            ) from error
        fault = fault_of(folder / WEIGHTS_FILE)
        if fault is not None:
            raise ValueError(f"folder={self.folder!r}: {folder / WEIGHTS_FILE} {fault}. Get the file again.")
        if "hf_model_name" in text:
            raise ValueError(
                f"folder={self.folder!r}: open_clip fetches its text tower {text['hf_model_name']!r} from a hub, and "
                "metrics download nothing. Choose a model whose text tower is open_clip's own."
            )
        tokenizer = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
        if text.get("hf_tokenizer_name") and not tokenizer:
            raise ValueError(
                f"folder={self.folder!r}: {folder} holds no tokenizer, and {CONFIG_FILE} asks for one. "
                f"Put {TOKENIZER_FILES[0]} there."
            )
        if text.get("hf_tokenizer_name"):
            try:
                check_tokenizer(folder)
            except ValueError as error:
                raise ValueError(f"folder={self.folder!r}: {error}") from error
        return folder, config, tokenizer

    def _tokenizer(self, folder: Path) -> Callable[[list[str]], Tensor]:
        import open_clip

        try:
            tokenize: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(f"local-dir:{folder}")
            tokenize(["a prompt"])
        except Exception as error:  # of transformers or tokenizers: each has its own
            raise ValueError(
                f"folder={self.folder!r}: the tokenizer in {folder} cannot be opened ({first_line(error)}). Get its "
                "files again: tokenizer.json, or vocab.json and merges.txt, with tokenizer_config.json."
            ) from error
        return tokenize

    def load(self) -> Judge:
        """Raises MetricUnavailable where there is no folder, ValueError where it is incomplete."""
        import open_clip

        folder, config, tokenizer = self._files()
        with _opening(
            f"folder={self.folder!r}", folder / WEIGHTS_FILE, config,
            f"Get it and {CONFIG_FILE} again, as they were saved.",
        ):  # fmt: skip
            model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
            _check_finite(model)
        tokenize = self._tokenizer(folder)
        # the transform and the tokenizer are files here, and change the score as the weights do
        digest = digest_of({name: sha256_of_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE, *tokenizer)})
        return Judge(model.eval(), transform, tokenize, digest)


def _asked(config: dict[str, Any]) -> dict[str, list[int]] | None:
    """Tensor name to shape of a plain CLIP, which is built without values; None for a model of another kind."""
    import open_clip

    try:
        with torch.device("meta"):
            model = open_clip.CLIP(**{**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}})
    except Exception:  # whatever a wrong configuration leads to; open_clip, which then loads the model, says what
        return None
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _fits(weights: Path, config: dict[str, Any]) -> bool:
    """Whether the head of a file names just what its model asks for.

    Where not, only loading tells whether open_clip takes it: it converts files of other origins.
    """
    stored = shapes_of(weights)
    return stored is not None and stored == _asked(config)


@contextmanager
def _opening(where: str, weights: Path, config: dict[str, Any], remedy: str) -> Iterator[None]:
    """Whatever open_clip, torch or safetensors cannot open within the block is a ValueError that says why."""
    try:
        yield
    except Exception as error:  # each has its own
        if out_of_memory(error):
            raise
        stored, asked = shapes_of(weights), _asked(config)
        difference = differing(stored, asked) if stored is not None and asked is not None else None
        why = f"it {difference}" if difference else " ".join(str(error).split())[:300].rstrip(".") or repr(error)
        raise ValueError(f"{where}: open_clip cannot open {weights}: {why}. {remedy}") from error


def _check_finite(model: nn.Module) -> None:
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"its values are not finite in {listed(broken)}")


def _url(tag: Mapping[str, Any]) -> str:
    """Where open_clip's weights of a tag lie: on the hub where they are there, as open_clip itself prefers."""
    repository, _, name = str(tag.get("hf_hub", "")).rpartition("/")
    return f"https://huggingface.co/{repository}/resolve/main/{name or WEIGHTS_FILE}" if repository else str(tag["url"])
