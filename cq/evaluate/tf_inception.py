"""The Inception network of TensorFlow's evaluators (2015-12-05), ported to PyTorch: pooled, spatial and class outputs.

Architecture by torch-fidelity; the weights are one file, published by torch-fidelity and pytorch-fid under two names.
Nothing here downloads. Legend of shape suffixes: N image, C channel, H W space, F pooled feature (2048), S spatial
feature (2023), K class (1008).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from cq.core.checksum import file_digest
from cq.evaluate.features import check_images
from cq.evaluate.protocol import MetricUnavailable

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures

SHA256 = "6726825d"  # the file carries the start of its own hash in its name
NAMES = (f"weights-inception-2015-12-05-{SHA256}.pth", f"pt_inception-2015-12-05-{SHA256}.pth")
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAMES[0]}"
SIZE = 299
SPATIAL_CHANNELS = 7  # of the 1x1 branch of mixed_6, in the evaluator of guided-diffusion

Resize = Literal["tensorflow", "pytorch"]


def find_weights(path: str, *, metric: str) -> Path:
    """The weights: the file itself, or one of its two names beside it or in torch hub's cache.

    Raises MetricUnavailable where there is none, ValueError where what is there is not the published file: it is
    unpickled, so nothing else may be.
    """
    wanted = Path(path)
    folders = (wanted.parent, Path(torch.hub.get_dir()) / "checkpoints")
    places = [wanted, *(folder / name for folder in folders for name in NAMES)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MetricUnavailable(
            f"{metric}: needs the Inception weights. Download {URL} to {wanted}, or into {folders[1]}."
        )
    if not file_digest(found).startswith(SHA256):
        raise ValueError(f"{found}: SHA-256 does not start with {SHA256}. Delete it and download {URL}.")
    return found


class TFInception:
    """The network in float32 and evaluation mode; digest: SHA-256 of its weights file, and the resize.

    resize: to 299 x 299. `tensorflow` as in the graph itself (bilinear, no antialiasing, corners not aligned, TF 1's
    pixel centres), which is what guided-diffusion's evaluator and torch-fidelity do. `pytorch`: torch's bilinear, not
    antialiased either, and another normalization, which is what pytorch-fid and clean-fid's legacy_pytorch do.
    """

    def __init__(self, weights: Path, *, device: str, resize: Resize = "tensorflow") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
        *trunk, self.classifier = network.children()  # registered in the order in which they run
        self.trunk = nn.Sequential(*trunk)
        self.digest = f"{file_digest(weights)}, resize {resize}"
        self.device = device
        self.prepare: Callable[[Tensor], Tensor] = _as_tensorflow if resize == "tensorflow" else _as_pytorch
        self._spatial = torch.empty(0)
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, output_NCHW: Tensor) -> None:
        self._spatial = output_NCHW[:, :SPATIAL_CHANNELS]

    @torch.no_grad()
    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> "ImageFeatures":
        """Features in float32 of uint8 images [N, C, H, W] of any size; grey ones are repeated to three channels.

        Spatial features are flattened as TensorFlow lays them out, height, width, channel, else the stored covariance
        of a reference would belong to other axes. Logits are without the bias, as in the evaluator's score.
        """
        from cq.evaluate.classifier import ImageFeatures

        check_images(images_NCHW)
        channels = images_NCHW.shape[1]
        if channels not in (1, 3):
            raise ValueError(f"images with {channels} channels: Inception takes grey (1) or colour (3) images.")
        parts = []
        for batch_NCHW in torch.split(images_NCHW, batch_size):
            colour_NCHW = batch_NCHW.expand(-1, 3, -1, -1).to(self.device).float()
            pooled_NF = self.trunk(self.prepare(colour_NCHW)).flatten(1)
            spatial_NS = self._spatial.permute(0, 2, 3, 1).flatten(1)
            parts.append((pooled_NF.cpu(), spatial_NS.cpu(), (pooled_NF @ self.classifier.weight.T).cpu()))
        self._spatial = torch.empty(0)
        return ImageFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _as_tensorflow(images_NCHW: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    resized_NCHW: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        images_NCHW, size=(SIZE, SIZE), align_corners=False
    )  # fmt: skip
    return (resized_NCHW - 128) / 128


def _as_pytorch(images_NCHW: Tensor) -> Tensor:
    resized_NCHW = nn.functional.interpolate(images_NCHW, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return 2 * (resized_NCHW.clamp(0, 255) / 255) - 1
