"""Made-up garments in place of Fashion-MNIST, so that recipes run where the data set is not."""

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from experiments.zoo import data

COUNTS = {"train": 300, "t10k": 100}


def made_up(kind: str, split: str) -> bytes:
    """An idx file: class k is a filled block whose sides tell it apart, with a dark stripe inside and some noise."""
    count = COUNTS[split]
    labels = np.arange(count) % 10
    if kind == "labels":
        return struct.pack(">II", 2049, count) + labels.astype(np.uint8).tobytes()
    images = np.zeros((count, 28, 28), np.uint8)
    noise = np.random.default_rng(len(split)).integers(60, 250, images.shape)
    for image, label, grey in zip(images, labels, noise, strict=True):
        high, wide = 8 + 2 * (label // 2), 10 + 8 * (label % 2)
        top, left = (28 - high) // 2, (28 - wide) // 2
        image[top : top + high, left : left + wide] = grey[:high, :wide]
        image[14, left + 2 : left + wide - 2] = 0
    return struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes()


@pytest.fixture(scope="module")
def garments() -> Iterator[None]:
    """`fashion_mnist` serves the made-up garments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_read", lambda name, _root: made_up(name.split("-")[1], name.split("-")[0]))
        yield
