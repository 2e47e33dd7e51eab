"""The standard Inception features, in the ways in which published numbers were made.

Nothing here downloads: a missing file is an error that says what to fetch and where to put it.
Legend of shape suffixes: N image, C channel, H W space, F feature (2048).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cq.evaluate.features import check_images
from cq.evaluate.protocol import MetricUnavailable
from cq.evaluate.tf_inception import URL, TFInception, find_weights

Mode = Literal["clean", "legacy_tensorflow", "legacy_pytorch", "torchmetrics"]

CLEAN_NAME = "inception-2015-12-05.pt"  # clean-fid looks for this name
CLEAN_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{CLEAN_NAME}"
URLS: dict[Mode, str] = {
    "clean": CLEAN_URL, "legacy_tensorflow": CLEAN_URL, "legacy_pytorch": URL, "torchmetrics": URL,
}  # fmt: skip
DIMS = 2048  # of its features
OF_TF_INCEPTION = ("legacy_pytorch", "torchmetrics")


def check_weights(mode: Mode, weights: Path) -> Path:
    """The weights. Raises MetricUnavailable where they are missing, ValueError for a file that cannot be the right one.

    The weights of the modes that clean-fid scripts are run as a program: take them from where the message says.
    """
    if mode in OF_TF_INCEPTION:
        return find_weights(str(weights), metric=f"fid_{mode}")
    if not weights.is_file():
        raise MetricUnavailable(f"fid_{mode}: needs the Inception weights. Download {URLS[mode]} to {weights}.")
    if weights.name != CLEAN_NAME:
        raise ValueError(
            f"weights={str(weights)!r}: the file for mode={mode!r} must be called {CLEAN_NAME}. Rename it."
        )
    return weights


def inception_features(
    images_NCHW: Tensor, *, mode: Mode, weights: Path, batch_size: int, device: str
) -> Tensor:  # fmt: skip
    """Pooled Inception features, float64 [N, F], of uint8 images; grey images are repeated to three channels.

    clean: bicubic resize to 299 with antialiasing and no rounding (arXiv:2104.11222), one image at a time.
    legacy_tensorflow: the resize of the TensorFlow graph, inside clean-fid's network. legacy_pytorch: pytorch-fid's.
    torchmetrics: torch's bilinear resize with antialiasing, inside the network.
    """
    check_images(images_NCHW)
    weights = check_weights(mode, weights)
    channels = images_NCHW.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels: Inception takes grey (1) or colour (3) images.")
    if mode == "legacy_pytorch":
        inception = TFInception(weights, device=device, resize="pytorch")
        return inception.extract(images_NCHW, batch_size=batch_size).pooled_NF.double()
    network = _torchmetrics(weights, device) if mode == "torchmetrics" else _clean(weights, device, mode)
    parts = []
    with torch.no_grad():
        for batch_NCHW in torch.split(images_NCHW, batch_size):
            parts.append(network(batch_NCHW.expand(-1, 3, -1, -1)).double().cpu())
    return torch.cat(parts)


def _clean(weights: Path, device: str, mode: Mode) -> Callable[[Tensor], Tensor]:
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    inside = mode == "legacy_tensorflow"
    network = InceptionV3W(str(weights.parent), download=False, resize_inside=inside).to(device).eval()
    resize = build_resizer(mode)

    def extract(batch_NCHW: Tensor) -> Tensor:
        resized = np.stack([resize(image_HWC) for image_HWC in batch_NCHW.permute(0, 2, 3, 1).numpy()])
        features: Tensor = network(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device))
        return features

    return extract


def _torchmetrics(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3(
        name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(weights)
    ).to(device)

    def extract(batch_NCHW: Tensor) -> Tensor:
        features: Tensor = network(batch_NCHW.contiguous().to(device))
        return features

    return extract
