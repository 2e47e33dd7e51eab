"""Images to features: our own small network, extracted once however many metrics ask.

Numbers from this network are called `*_own`: they are not comparable with Inception numbers.
Legend of shape suffixes: N image, F feature, K class, C channel, H W space.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from cq.core.artifacts import digest_of_tensor
from cq.core.checksum import digest_of, file_digest
from cq.models.files import differing, first_line, listed
from cq.models.headers import fault_of, shapes_of
from cq.models.locate import locate

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import Classifier, ImageFeatures

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class FeatureFolder:
    """A folder with a whole feature network. settings: of its config.json, and the usual ones that it leaves out.

    digest: SHA-256 of the weights file, whose names and shapes tell all of config.json but the stride; so a stride that
    is not the usual one is digested with it.
    """

    weights: Path
    settings: Mapping[str, int]
    digest: str

    @classmethod
    def of(cls, reference: str) -> "FeatureFolder":
        """Raise ValueError for a folder that is missing, or whose files are not whole or not of one network.

        Only the head of the weights is looked at.
        """
        try:
            folder = locate(reference)
        except ValueError as error:
            raise ValueError(f"features={error}") from error
        remedy = "Give a folder written by `Classifier.save_pretrained`, or zoo:features."
        weights, config = folder / WEIGHTS_FILE, folder / "config.json"
        if not weights.is_file():
            raise ValueError(f"features={reference!r}: {folder} holds no {WEIGHTS_FILE}. {remedy}")
        try:
            stated = json.loads(config.read_text(encoding="utf-8"))
            named = {name: value for name, value in stated.items() if not name.startswith("_")}
            if not all(type(value) is int and value > 0 for value in named.values()):
                raise ValueError(f"{named}: must be whole numbers from 1")
            settings, asked = _described(**named)
        except (OSError, ValueError, AttributeError, TypeError, RuntimeError, ArithmeticError) as error:
            raise ValueError(
                f"features={reference!r}: {config} describes no Classifier ({first_line(error)}). {remedy}"
            ) from error
        fault = fault_of(weights)
        if fault is not None:
            raise ValueError(f"features={reference!r}: {weights} {fault}. Get the file again.")
        difference = differing(shapes_of(weights) or {}, asked)
        if difference is not None:
            raise ValueError(
                f"features={reference!r}: {weights} is not what config.json beside it describes: it {difference}. Get "
                "both again, as they were saved."
            )
        digest = file_digest(weights)
        if settings["stride"] != _described()[0]["stride"]:
            digest = digest_of({"weights": digest, "stride": settings["stride"]})
        return cls(weights, settings, digest)


@cache
def _described(**settings: int) -> tuple[Mapping[str, int], Mapping[str, list[int]]]:
    """All settings of a network with these, and the shapes of its tensors by name."""
    from cq.evaluate.classifier import Classifier

    with torch.device("meta"):
        built = Classifier(**settings)
    whole = {name: value for name, value in built.config.items() if not name.startswith("_")}
    return whole, {name: list(tensor.shape) for name, tensor in built.state_dict().items()}


@dataclass(frozen=True)
class FeatureNetwork:
    """A `Classifier` in float32 and evaluation mode; digest: that of its folder."""

    network: "Classifier"
    digest: str

    @classmethod
    def load(cls, reference: str) -> "FeatureNetwork":
        """`zoo:features` or a local folder in diffusers' layout. Raises ValueError where it is missing or damaged."""
        from safetensors.torch import load_file

        from cq.evaluate.classifier import Classifier

        stored = FeatureFolder.of(reference)
        with torch.device("meta"):
            network = Classifier(**stored.settings)
        network.load_state_dict(load_file(stored.weights), assign=True)
        broken = [name for name, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())]
        if broken:
            raise ValueError(
                f"features={reference!r}: {stored.weights} has values that are not finite in {listed(broken)}. Get the "
                "file again, from before it was trained until it broke."
            )
        return cls(network.float().eval().requires_grad_(False), stored.digest)

    @torch.no_grad()
    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> "ImageFeatures":
        """Features in float64 of uint8 images [N, C, H, W]; 0..255 is mapped to -1..1 as in training.

        The network itself runs in float32 on the CPU, so the last digits depend on `batch_size`.
        """
        from cq.evaluate.classifier import ImageFeatures

        check_images(images_NCHW)
        wanted = self.network.config.in_channels
        if images_NCHW.shape[1] != wanted:
            raise ValueError(
                f"images of shape {list(images_NCHW.shape)}: this feature network takes {wanted} channel(s). "
                "zoo:features is for grey images, zoo:scene_features for colour."
            )
        parts = [self.network(batch.float() / 127.5 - 1) for batch in torch.split(images_NCHW, batch_size)]
        pooled_NF, spatial_NF, logits_NK = (torch.cat(column).double() for column in zip(*parts, strict=True))
        return ImageFeatures(pooled_NF, spatial_NF, logits_NK)


def check_shape(shape: tuple[int, int, int], judge: str) -> None:
    """Raise ValueError for images that are neither grey nor colour, which the published networks take."""
    if shape[0] not in (1, 3):
        raise ValueError(f"images with {shape[0]} channels: {judge} takes grey (1) or colour (3) images.")


def check_device(device: str) -> None:
    """Raise ValueError where there is no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"device={device!r}: is not here ({reason}). Set it to cpu.") from error


def check_images(images_NCHW: Tensor) -> None:
    """Raise ValueError for anything but a non-empty uint8 [N, C, H, W]."""
    if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or not len(images_NCHW):
        raise ValueError(
            f"images of dtype {images_NCHW.dtype} and shape {list(images_NCHW.shape)}: metrics score a non-empty "
            "uint8 [N, C, H, W]. Round and clip to 0..255 first."
        )


class Extractor(Protocol):
    """Whatever finds features in images, and a name for them."""

    @property
    def digest(self) -> str: ...

    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> "ImageFeatures": ...


class FeatureCache:
    """Networks and features met so far; shared by the metrics of a run, harmless to throw away."""

    def __init__(self) -> None:
        self._networks: dict[str, FeatureNetwork] = {}
        self._features: dict[tuple[str, str], ImageFeatures] = {}

    def network(self, reference: str) -> FeatureNetwork:
        if reference not in self._networks:
            self._networks[reference] = FeatureNetwork.load(reference)
        return self._networks[reference]

    def features(self, images_NCHW: Tensor, network: Extractor, *, batch_size: int) -> "ImageFeatures":
        key = (network.digest, digest_of_tensor(images_NCHW))
        if key not in self._features:
            self._features[key] = network.extract(images_NCHW, batch_size=batch_size)
        return self._features[key]
