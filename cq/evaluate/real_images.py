"""Real images as a reference: their statistics are computed where they are asked for.

Legend of shape suffixes: M image, C channel, H W space.
"""

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from cq.core.artifacts import digest_of_tensor
from cq.evaluate import efficientnet
from cq.evaluate.image_files import list_images
from cq.evaluate.image_pixels import Fit, batches, check_data_set
from cq.evaluate.reference import ReferenceStatistics
from cq.models.locate import locate

AS_IT_IS = Fit(fit=None, resize=None, crop=None)


@dataclass(frozen=True, kw_only=True)
class StatisticsOfImages(ReferenceStatistics):
    """All images are in the subset. images: their digest, by which they are named: last digits of features vary."""

    images: str

    @property
    def digest(self) -> str:
        return self.images


@lru_cache(maxsize=2)
def real_images(reference: str) -> Tensor:
    """uint8 [M, 3, H, W] of a folder with image files of one size (`zoo:test_images`); read once a process.

    A file higher than wide, by a whole number, is a column of square images. Raises ValueError where there are fewer
    than two, or one that cannot be read.
    """
    try:
        files = list_images(locate(reference), lossy=True)
        check_data_set(files, AS_IT_IS)
        (found_MCHW,) = batches(files, AS_IT_IS, batch_size=len(files))
    except ValueError as error:
        raise ValueError(
            f"reference={reference!r}: there are no real images ({error}). Give a folder of image files, or "
            "zoo:test_images."
        ) from error
    height, width = found_MCHW.shape[2:]
    if height % width == 0:
        found_MCHW = found_MCHW.reshape(-1, 3, height // width, width, width).transpose(1, 2).flatten(0, 1)
    if len(found_MCHW) < 2:
        raise ValueError(f"reference={reference!r}: holds one image, and distances need pairs. Give at least 2.")
    return found_MCHW


def check_real(reference: str, channels: int) -> None:
    """Raise ValueError for what `real_images` refuses, and for grey images that colour is to be compared with."""
    red, green, blue = real_images(reference).unbind(1)
    if channels == 3 and red.equal(green) and red.equal(blue):
        raise ValueError(
            f"reference={reference!r}: holds grey images, and this model draws colour. Give images of its own data "
            "set; for sd_mini that is zoo:test_scenes."
        )


@lru_cache(maxsize=2)
def statistics_of_images(reference: str, batch_size: int) -> StatisticsOfImages:
    """Of a folder of images in the features of EfficientNet-Lite0; computed once a process, in some 10 seconds."""
    network = efficientnet.load()
    images_MCHW = real_images(reference)
    found = network.extract(images_MCHW, batch_size=batch_size)
    of_all = ReferenceStatistics.of(
        found, data_set=reference, network=network.digest, subset_size=len(images_MCHW), seed=0
    )
    fields = {**vars(of_all), "subset_MF": found.pooled_NF}  # in full precision: nothing is stored
    return StatisticsOfImages(**fields, images=digest_of_tensor(images_MCHW))
