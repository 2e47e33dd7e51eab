"""A published protocol as data: how many images of what, drawn how, and judged by what."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cq.models.captions import digest, read_folder

PATHS = ("reference", "prompts")  # where files lie on this machine is no part of a protocol


@dataclass(frozen=True, kw_only=True)
class NoProtocol:
    """`sample` and `evaluate` are as chosen; scores say by themselves what must agree."""

    def stated(self) -> dict[str, Any]:
        """Nothing beyond what every score states."""
        return {}

    def check_metric(self, key: str, metric: Any) -> None:
        """Any metric will do."""

    def check_choices(self, *, model: type | None, metrics: Mapping[str, Any]) -> None:
        """Nothing is set up that could have been swapped."""

    def check_run(self, found: Mapping[str, Any]) -> None:
        """Images may be drawn in any way."""

    @property
    def label(self) -> str:
        """What it is chosen by."""
        return "none"

    @property
    def knows_prompts(self) -> bool:
        """Whether prompts are compared with its own."""
        return False

    def check_prompts(self, prompts: Sequence[str], *, named: str) -> None:
        """Any prompts will do."""

    def check_files(self, files: Sequence[Path]) -> None:
        """As many as there are."""

    def check_reference(self) -> None:
        """No reference is at hand."""

    def check_images(self, images: Path, shape: tuple[int, ...]) -> None:
        """Any images will do."""

    def captions(self) -> tuple[str, ...]:
        """What images were drawn from is not known."""
        return ()

    def preparation(self) -> dict[str, Any]:
        """The images of a reference are taken as they are; see `cq.evaluate.image_pixels.Fit`."""
        return {"fit": None, "resize": None, "crop": None}


@dataclass(frozen=True, kw_only=True)
class PaperProtocol(NoProtocol):
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

    def check_choices(self, *, model: type | None, metrics: Mapping[str, Any]) -> None:
        """Raise ValueError where what it sets up was swapped for something that cannot take its numbers.

        model: the component's class; None where the images were drawn elsewhere.
        """
        if self.prompts is not None and model is not None and "prompts" not in {field.name for field in fields(model)}:
            target = f"{model.__module__}.{model.__qualname__}"
            raise ValueError(
                f"model._target_={target!r}: protocol={self.name} draws from prompts, and this model takes none. "
                "Choose a text-to-image model, or another protocol."
            )
        for name in map(str, metrics):
            if "_target_" not in metrics[name]:
                raise ValueError(
                    f"metrics.{name}: protocol={self.name} sets it up, and another evaluate, scale or debug has put "
                    "other metrics in its place. Add the protocol's own evaluate=... to the command (it stands in "
                    f"conf/protocol/{self.name}.yaml), leave those out, or set protocol=none."
                )

    def check_run(self, found: Mapping[str, Any]) -> None:
        """Raise ValueError where the images would not be drawn as the protocol says, or its reference is not at hand.

        found: what a run has under the keys of `of_sampling`; None as model.release.data where nobody knows.
        """
        for key, asked in self.of_sampling().items():
            unknown = key == "model.release.data" and (asked is None or found[key] is None)
            if unknown or found[key] == asked:
                continue
            if key.startswith("protocol."):
                raise ValueError(f"{key}={asked!r}: this program draws with {found[key]!r}. Set it to that.")
            raise ValueError(
                f"{key}={found[key]!r}: protocol={self.name} says {asked!r}, and numbers of two protocols do not "
                "compare. Set it to that, choose another model or protocol, or set protocol=none."
            )
        self.check_reference()

    @property
    def label(self) -> str:
        """Its name."""
        return self.name

    @property
    def knows_prompts(self) -> bool:
        """Where it has their hash."""
        return self.prompts_sha256 is not None

    def check_files(self, files: Sequence[Path]) -> None:
        """Raise ValueError where they are not as many as its images."""
        from cq.evaluate.image_files import check_complete

        check_complete(files, self.num_images, protocol=self.name)

    def check_prompts(self, prompts: Sequence[str], *, named: str) -> None:
        """Raise ValueError for evaluation prompts that are not its own. named: the key of their folder, and it."""
        if len(prompts) != self.num_classes:
            raise ValueError(
                f"{named}: holds {len(prompts)} evaluation prompts, and protocol={self.name} has {self.num_classes}. "
                f"Make the folder again: cq-prompts {self.prompts} EVALUATION CALIBRATION --count {self.num_classes}"
            )
        found = digest(prompts)
        if self.prompts_sha256 not in (None, found):
            raise ValueError(
                f"{named}: SHA-256 of its evaluation prompts is {found}, and protocol={self.name} has "
                f"{self.prompts_sha256}: other prompts. Make the folder again, or set protocol.prompts_sha256=null to "
                "take them as they are."
            )

    def check_reference(self) -> None:
        """Raise ValueError for a reference that is missing or not the one whose hash the protocol has."""
        if self.reference is None:
            return
        path = Path(self.reference)
        if not path.is_file():
            raise ValueError(
                f"protocol.reference={self.reference!r}: there is no such file, and protocol={self.name} compares with "
                f"{self.reference_set}. Get it there with: {self.reference_from}"
            )
        if self.reference_sha256 is not None:
            from cq.evaluate.reference_batch import ReferenceBatch

            try:
                ReferenceBatch.open(str(path), sha256=self.reference_sha256, metric="adm")
            except ValueError as error:
                raise ValueError(f"protocol.{error}") from error

    def check_images(self, images: Path, shape: tuple[int, ...]) -> None:
        """Raise ValueError for images [N, C, H, W] drawn elsewhere that are not as many of that size."""
        if shape != (asked := (self.num_images, *self.image_shape)):
            raise ValueError(
                f"{images}: holds images [N, C, H, W] of {list(shape)}, and protocol={self.name} has {list(asked)}. "
                "Give those, or choose their protocol."
            )

    def captions(self) -> tuple[str, ...]:
        """What each image was drawn from: its prompts in turn, as often as it has images."""
        if self.prompts is None:
            return ()
        prompts = read_folder(self.prompts, "evaluation", key="protocol.prompts")
        self.check_prompts(prompts, named=f"protocol.prompts={self.prompts!r}")
        return tuple(prompts[i % len(prompts)] for i in range(self.num_images))

    def preparation(self) -> dict[str, Any]:
        """What is done to the images of a reference that is made here."""
        return {"fit": self.fit, "resize": self.resize, "crop": self.crop}

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
