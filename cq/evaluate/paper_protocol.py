"""A published protocol as data: how many images of what, drawn how, and judged by what."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

PATHS = ("reference", "prompts")  # where files lie on this machine is no part of a protocol


@dataclass(frozen=True, kw_only=True)
class NoProtocol:
    """`sample` and `evaluate` are as chosen; scores say by themselves what must agree."""

    def stated(self) -> dict[str, Any]:
        """Nothing beyond what every score states."""
        return {}

    def check_metric(self, key: str, metric: Any) -> None:
        """Any metric will do."""


@dataclass(frozen=True, kw_only=True)
class PaperProtocol:
    """What a run must agree with, number by number, before its scores may stand under this name.

    data: what its models were trained on, None for any. labels: how classes or prompts are dealt out. num_classes: how
    many there are, 0 where unconditional. eta, num_steps, sampler (its class): of the full-precision images, so that
    rows of fewer steps belong to the protocol, too. pixels: how -1..1 became 8 bits.
    prompts: the folder of prompts, or None. prompts_sha256: of its evaluation prompts, None to take them as they are.
    reference_set: in words. reference: its npz, None where nothing is compared with images. reference_sha256: of that
    file, None to take it as it is. reference_from: where to get it, or the command that makes it.
    fit, resize, crop: what is done to the images of a reference that is made here: `centre` takes the central square,
    `squash` the whole image whatever its shape; that is scaled to `resize` pixels a side (bicubic, antialiased), and
    the central `crop` of it is kept. None where it comes ready made or in its size.
    backbones: open_clip's name and tag of each CLIP score, as `ViT-B-32/openai`.
    """

    name: str
    data: str | None
    num_images: int
    labels: Literal["balanced", "drawn"]
    num_classes: int
    image_shape: tuple[int, int, int]
    guidance: float | None
    eta: float
    num_steps: int
    sampler: str
    pixels: str
    prompts: str | None
    prompts_sha256: str | None
    reference_set: str | None
    reference: str | None
    reference_sha256: str | None
    reference_from: str | None
    fit: Literal["centre", "squash"] | None
    resize: int | None
    crop: int | None
    backbones: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"protocol.num_images={self.num_images}: must be at least 1.")
        if self.labels == "balanced" and self.num_classes and self.num_images % self.num_classes:
            raise ValueError(
                f"protocol.num_images={self.num_images}: cannot be balanced over {self.num_classes} classes or "
                "prompts. Take a multiple."
            )
        if self.reference is not None and self.reference_set is None:
            raise ValueError("protocol.reference_set=null: say in words what protocol.reference holds.")
        if self.crop is not None and self.resize is not None and self.crop > self.resize:
            raise ValueError(f"protocol.crop={self.crop}: is more than protocol.resize={self.resize} leaves. Lower it.")

    def stated(self) -> dict[str, Any]:
        """What a score's protocol says of it: everything but places on this machine."""
        said = {key: value for key, value in asdict(self).items() if key not in PATHS}
        return {"paper_protocol": {key: list(v) if isinstance(v, tuple) else v for key, v in said.items()}}

    def of_sampling(self) -> Mapping[str, Any]:
        """Configuration key to the value that a run of this protocol has."""
        return {
            "model.image_shape": self.image_shape,
            "model.guidance": self.guidance,
            "model.num_classes": self.num_classes,
            "model.release.data": self.data,
            "sample.num_images": self.num_images,
            "sample.labels": self.labels,
            "sample.classes": None,
            "baseline.num_steps": self.num_steps,
            "baseline.sampler": self.sampler,
            "protocol.eta": self.eta,
            "protocol.pixels": self.pixels,
        }

    def check_metric(self, key: str, metric: Any) -> None:
        """Raise ValueError for a metric that compares with another reference set, or scores by other backbones."""
        for field in ("reference", "reference_sha256"):
            if hasattr(metric, "reference_sha256") and getattr(metric, field) != getattr(self, field):
                raise ValueError(
                    f"{key}.{field}={getattr(metric, field)!r}: protocol={self.name} has {getattr(self, field)!r}, and "
                    f"one number has one reference. Set protocol.{field}, which the metric follows."
                )
        if hasattr(metric, "backbones") and metric.backbones != self.backbones:
            raise ValueError(
                f"{key}.backbones={list(metric.backbones)}: protocol={self.name} has {list(self.backbones)}. Set "
                "protocol.backbones, which the metric follows."
            )
