"""A network that judges captions: scores by it, and its weights, which are looked at before it is loaded.

Legend of shape suffixes: N image, C channel, H W space.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.contracts import Drawn
from cq.core.failures import out_of_memory
from cq.evaluate.bootstrap import METHOD, interval_of_mean
from cq.evaluate.features import check_device, check_images, check_shape
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.models.files import differing, listed
from cq.models.headers import shapes_of

DEFINITION = "mean of 100 max(cos(image, caption), 0), captions as they are"


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


def asked(config: dict[str, Any]) -> dict[str, list[int]] | None:
    """Tensor name to shape of a plain CLIP, which is built without values; None for a model of another kind."""
    import open_clip

    try:
        with torch.device("meta"):
            model = open_clip.CLIP(**{**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}})
    except Exception:  # whatever a wrong configuration leads to; open_clip, which then loads the model, says what
        return None
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def fits(weights: Path, config: dict[str, Any]) -> bool:
    """Whether the head of a file names just what its model asks for.

    Where not, only loading tells whether open_clip takes it: it converts files of other origins.
    """
    stored = shapes_of(weights)
    return stored is not None and stored == asked(config)


@contextmanager
def opening(where: str, weights: Path, config: dict[str, Any], remedy: str) -> Iterator[None]:
    """Whatever open_clip, torch or safetensors cannot open within the block is a ValueError that says why."""
    try:
        yield
    except Exception as error:  # each has its own
        if out_of_memory(error):
            raise
        stored, wanted = shapes_of(weights), asked(config)
        difference = differing(stored, wanted) if stored is not None and wanted is not None else None
        why = f"it {difference}" if difference else " ".join(str(error).split())[:300].rstrip(".") or repr(error)
        raise ValueError(f"{where}: open_clip cannot open {weights}: {why}. {remedy}") from error


def check_finite(model: nn.Module) -> None:
    """Raise ValueError for weights that are no numbers."""
    broken = [name for name, tensor in model.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"its values are not finite in {listed(broken)}")
