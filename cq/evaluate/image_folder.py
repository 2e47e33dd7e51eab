"""Images made elsewhere: found, ordered, and refused where one is missing, twice there or not like the others.

Legend of shape suffixes: N image, C channel, H W space.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

EXACT = (".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
LOSSY = (".jpg", ".jpeg")  # and webp may be; what was drawn is not what such a file says


def list_images(folder: Path, *, lossy: bool = False) -> list[Path]:
    """Every image file of a folder and its subfolders: by number where all names are numbers, else by name.

    lossy: whether JPEG files may be among them. Raises ValueError where there are none, or they may not.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder. Give a folder of images, or an npz file with arr_0.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*EXACT, *LOSSY))
    if not files:
        raise ValueError(f"{folder}: holds no image ({', '.join((*EXACT, *LOSSY))}). Give the folder that holds them.")
    jpeg = next((path for path in files if path.suffix.lower() in LOSSY), None)
    if jpeg is not None and not lossy:
        raise ValueError(
            f"{jpeg}: is a JPEG, and compression moves every score. Save the images as PNG when they are drawn."
        )
    return sorted(files, key=lambda path: int(path.stem)) if all(path.stem.isdecimal() for path in files) else files


def check_complete(files: Sequence[Path], num_images: int, *, protocol: str) -> None:
    """Raise ValueError where a number is missing or there twice, or the count is not the protocol's."""
    asked = f"protocol={protocol} has {num_images} images"
    if all(path.stem.isdecimal() for path in files):
        numbers: dict[int, Path] = {}
        for path in files:
            if (twice := numbers.setdefault(int(path.stem), path)) is not path:
                raise ValueError(f"{path}: is image {int(path.stem)} once more, beside {twice}. Remove one.")
        first = min(numbers)
        missing = [i for i in range(first, first + num_images) if i not in numbers]
        if missing and len(files) < num_images:
            raise ValueError(
                f"{files[0].parent}: {asked}, and {len(missing)} are missing: {_some(missing)}. Draw them first."
            )
    if len(files) != num_images:
        raise ValueError(f"{files[0].parent}: holds {len(files)} images, and {asked}. Draw or choose exactly those.")


def read_images(files: Sequence[Path]) -> Tensor:
    """uint8 [N, 3, H, W]. Raises ValueError for images of several sizes and for equal ones, naming both files."""
    first = _pixels(_opened(files[0]))
    images_NCHW = torch.empty(len(files), *first.shape, dtype=torch.uint8)  # once: a list and its stack are twice it
    seen: dict[bytes, Path] = {}
    for row, path in enumerate(files):
        image_CHW = _pixels(_opened(path))
        if image_CHW.shape != first.shape:
            raise ValueError(
                f"{path}: is {_size(image_CHW)} and {files[0]} is {_size(first)}. All images must be of one size."
            )
        digest = hashlib.sha256(image_CHW.numpy().tobytes()).digest()
        if (twin := seen.setdefault(digest, path)) is not path:
            raise ValueError(f"{path}: is pixel for pixel {twin}. No two seeds draw one image: remove the copy.")
        images_NCHW[row] = image_CHW
    return images_NCHW


def read_npz(path: Path) -> Tensor:
    """uint8 [N, 3, H, W] of `arr_0` of a sample batch of guided-diffusion's. Raises ValueError for equal images."""
    try:
        with path.open("rb") as raw, np.load(raw) as stored:  # numpy leaves a broken file open
            images = torch.from_numpy(stored["arr_0"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Give an npz file with images under arr_0.") from error
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"{path}: arr_0 is {images.dtype} {list(images.shape)}; images are uint8 [N, H, W, 3].")
    seen: dict[bytes, int] = {}
    for row, image_HWC in enumerate(images):
        if (twin := seen.setdefault(hashlib.sha256(image_HWC.numpy().tobytes()).digest(), row)) != row:
            raise ValueError(f"{path}: image {row} is pixel for pixel image {twin}. Remove the copy.")
    return images.permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How images of a reference set come to one size; see `PaperProtocol`."""

    fit: str | None
    resize: int | None
    crop: int | None

    def __call__(self, image: "Image") -> "Image":
        from PIL import Image

        if self.fit == "centre":
            image = _central(image, min(image.size))
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BICUBIC)
        return image if self.crop is None else _central(image, self.crop)


def batches(files: Sequence[Path], fit: Fit, *, batch_size: int) -> Iterator[Tensor]:
    """uint8 [n, 3, H, W] of the files in order, fitted. Raises ValueError for one that comes out in another size."""
    shape = None
    for start in range(0, len(files), batch_size):
        images = []
        for path in files[start : start + batch_size]:
            images.append(_pixels(fit(_opened(path))))
            shape = shape or images[0].shape
            if images[-1].shape != shape:
                raise ValueError(
                    f"{path}: comes out as {_size(images[-1])}, others as {shape[2]}x{shape[1]}. Set protocol.fit "
                    "and protocol.resize."
                )
        yield torch.stack(images)


def _opened(path: Path) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Draw or fetch it again.") from error


def _pixels(image: "Image") -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _central(image: "Image", side: int) -> "Image":
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _size(image_CHW: Tensor) -> str:
    return f"{image_CHW.shape[2]}x{image_CHW.shape[1]}"


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
