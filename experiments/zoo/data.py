"""Fashion-MNIST at 32x32, found on disk or downloaded, the same bytes either way."""

import gzip
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Split = Literal["train", "t10k"]

SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
CLASS_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where `dataset-fashion-mnist` puts the files


def fashion_mnist(split: Split, root: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 1, 32, 32] (28x28 with a border of two black pixels) and labels int64 [n].

    Looked for in `root`, then where Debian's `dataset-fashion-mnist` installs them, then downloaded
    into `root` by torchvision. A file whose SHA-256 differs from the published one is refused.
    """
    images = np.frombuffer(_read(f"{split}-images-idx3-ubyte.gz", root), np.uint8, offset=16)
    labels = np.frombuffer(_read(f"{split}-labels-idx1-ubyte.gz", root), np.uint8, offset=8)
    images_NHW = torch.from_numpy(images.reshape(-1, 28, 28).copy())
    images_NCHW = torch.nn.functional.pad(images_NHW, (2, 2, 2, 2))[:, None]
    return images_NCHW, torch.from_numpy(labels.astype(np.int64))


def _read(name: str, root: Path) -> bytes:
    for folder in (root, root / "FashionMNIST" / "raw", DEBIAN_FOLDER):
        if (folder / name).is_file():
            return _checked(folder / name)
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(root), download=True)
    return _checked(root / "FashionMNIST" / "raw" / name)


def _checked(path: Path) -> bytes:
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256[path.name]:
        raise ValueError(
            f"{path}: SHA-256 {digest} is not the published {SHA256[path.name]}. "
            "Delete the file; it is downloaded again on the next run."
        )
    return gzip.decompress(packed)
