"""A small image classifier: the feature network of our offline metrics, and the judge of our bars."""

from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ImageFeatures(NamedTuple):
    """What a feature network says of a batch of images."""

    pooled_NF: Tensor  # for Frechet and kernel distances
    spatial_NF: Tensor  # a few channels of an earlier map, flattened, for sFID
    logits_NK: Tensor  # for class agreement and Inception-style scores


class Classifier(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A residual network of three levels for square images of 32 pixels in [-1, 1].

    in_channels: 1 for grey images, 3 for colour.
    width: channels of the first level; the pooled features have 4 * width dimensions.
    stride: of the first convolution; 2 is four times cheaper, 1 keeps the finest texture.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, width: int = 32, blocks: int = 1, stride: int = 2, num_classes: int = 10, in_channels: int = 1
    ) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        levels: list[nn.Module] = [first, nn.BatchNorm2d(width), nn.ReLU()]
        levels += [_Residual(width, width, 1) for _ in range(blocks)]
        self.low = nn.Sequential(*levels)
        self.middle = nn.Sequential(
            _Residual(width, 2 * width, 2), *[_Residual(2 * width, 2 * width, 1) for _ in range(blocks)]
        )
        self.high = nn.Sequential(
            _Residual(2 * width, 4 * width, 2), *[_Residual(4 * width, 4 * width, 1) for _ in range(blocks - 1)]
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images_NCHW: Tensor) -> ImageFeatures:
        middle_NCHW = self.middle(self.low(images_NCHW))
        pooled_NF = self.high(middle_NCHW).mean((2, 3))
        spatial = torch.nn.functional.adaptive_avg_pool2d(middle_NCHW[:, :8], 4)
        return ImageFeatures(pooled_NF, spatial.flatten(1), self.head(pooled_NF))

    def maps(self, images_NCHW: Tensor) -> list[Tensor]:
        """Feature maps of the first two levels, for the perceptual loss of the first stage."""
        low = self.low(images_NCHW)
        return [low, self.middle(low)]


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))
