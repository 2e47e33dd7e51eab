"""Images made elsewhere: decoded, and refused by name where they are not what they seem.

Decoded to 8 bits of red, green and blue: grey and palettes become the colours they stand for.
Refused: damage; more than 8 bits, which Pillow would clip or cut; pixels that one can see through; several pictures in
a file; a GIF. Of images that were drawn also what compression or a camera has touched: JPEG by whatever name, lossy
WebP, CMYK, a turn by EXIF. Of a data set these may be: CMYK becomes RGB by Pillow's formula and a turn is not applied,
as in guided-diffusion; both are told.
Legend of shape suffixes: N image, C channel, H W space.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cq.evaluate.image_files import LOSSY_REMEDY
from cq.evaluate.npz import check_image_array, read_array, read_heads

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")  # Pillow's modes of 8 bits
ORIENTATION = 274  # the tag of EXIF
CMYK, TURNED = "CMYK, and become RGB by Pillow's formula", "turned by their EXIF, which is not applied"


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
    heads = read_heads(path)
    if "arr_0" not in heads:
        held = ", ".join(heads) or "no arrays"
        source = f"np.load({str(path)!r})[{next(iter(heads))!r}]" if heads else "images"
        raise ValueError(
            f"{path}: holds {held}, and images are looked for under arr_0. Write them there: "
            f"np.savez({str(path)!r}, {source})"
        )
    check_image_array(f"{path}: arr_0", heads["arr_0"])
    images = torch.from_numpy(read_array(path, "arr_0"))
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

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that an image of `size` comes out in. Raises ValueError where the crop is larger."""
        if self.fit == "centre":
            size = (min(size), min(size))
        if self.resize is not None:
            size = (self.resize, self.resize)
        if self.crop is not None and self.crop > min(size):
            raise ValueError(f"is {size[0]}x{size[1]}, and protocol.crop={self.crop} takes more. Set protocol.resize.")
        return size if self.crop is None else (self.crop, self.crop)


def check_data_set(files: Sequence[Path], fit: Fit) -> None:
    """Raise ValueError for an image that cannot be decoded by its head, or comes out in another size than the others.

    Heads only, but for pixels that may be seen through: seconds, where the features of all take hours. What is done to
    some of them is told.
    """
    from PIL import Image

    told: Counter[str] = Counter()
    shape = None
    for path in files:
        with _reading(path), Image.open(path) as image:
            why = _unfit(image, path, lossy=True)
            size, clear = image.size, _may_be_clear(image)
            notes = [CMYK] * (image.mode == "CMYK") + [TURNED] * _is_turned(image)
        if why:
            raise ValueError(f"{path}: {why}")
        if clear:
            _opened(path, lossy=True)
        try:
            size = fit.size(size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        shape = shape or size
        if size != shape:
            raise ValueError(
                f"{path}: comes out as {size[0]}x{size[1]}, others as {shape[0]}x{shape[1]}. Set protocol.fit and "
                "protocol.resize."
            )
        told.update(notes)
    for what, count in told.items():
        log.info("%s: %d images are %s", files[0].parent, count, what)


def batches(files: Sequence[Path], fit: Fit, *, batch_size: int) -> Iterator[Tensor]:
    """uint8 [n, 3, H, W] of the files of a data set in order, fitted; `check_data_set` refuses several sizes."""
    for start in range(0, len(files), batch_size):
        opened = (_opened(path, lossy=True) for path in files[start : start + batch_size])
        yield torch.stack([_pixels(fit(image)) for image in opened])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow's decoders fail in as many ways as there are formats
        raise ValueError(f"{path}: cannot be read ({error}). Draw or fetch it again.") from error


def _opened(path: Path, *, lossy: bool = False) -> "Image":
    """In red, green and blue. Raises ValueError for what the head of this module says."""
    from PIL import Image

    with _reading(path), Image.open(path) as image:
        why = _unfit(image, path, lossy=lossy)
        if not why:
            image.load()
            whole = image.convert("RGBA") if _may_be_clear(image) else image
            rgb = whole.convert("RGB")
            if whole is not image and whole.getchannel("A").getextrema() != (255, 255):
                why = "has pixels that one can see through. Put it on a ground of one colour; save it without alpha."
    if why:
        raise ValueError(f"{path}: {why}")
    return rgb


def _may_be_clear(image: "Image") -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _is_turned(image: "Image") -> bool:
    """Whether EXIF says that the pixels are not as they are to be seen. Pillow turns a TIFF itself."""
    return "exif" in image.info and image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) != 1


def _unfit(image: "Image", path: Path, *, lossy: bool) -> str:
    """Why the head of a file says that it is not to be scored, with a remedy; empty where it is."""
    kind = str(image.format)
    tiles: list[Any] = [tile[3] for tile in getattr(image, "tile", None) or ()]
    deep = kind != "BMP" and any(";16" in str(args) for args in tiles)
    deep |= kind == "PPM" and any(isinstance(args, tuple) and args[-1] > 255 for args in tiles)
    if deep or image.mode.startswith(("I", "F")):
        return "has more than 8 bits a channel. Save it as it was drawn, in 8: rounded, not cut or clipped."
    if image.mode not in COLOURS:
        return f"is of Pillow's mode {image.mode}. Save it in red, green and blue."
    if kind == "GIF":
        return "is a GIF, of at most 256 colours. Save the images as PNG when they are drawn."
    if kind != "MPO" and getattr(image, "n_frames", 1) > 1:
        return f"holds {image.n_frames} pictures. Save each as a file."  # type: ignore[attr-defined]
    if lossy:
        return ""
    compressed = kind in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    if compressed or (kind == "WEBP" and not _lossless(path)):
        return f"is compressed as {'WebP' if kind == 'WEBP' else 'JPEG'}. {LOSSY_REMEDY}"
    if image.mode == "CMYK":
        return "is in colours of print (CMYK). Save it in red, green and blue."
    if _is_turned(image):
        return "is turned by its EXIF. Save it as it is to be seen, without."
    return ""


def _lossless(path: Path) -> bool:
    """Whether a WebP file has a chunk of lossless pixels: RIFF, its size, WEBP, then kind, size and bytes of each."""
    data = path.read_bytes()
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == b"VP8L":
            return True
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return False


def _pixels(image: "Image") -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _central(image: "Image", side: int) -> "Image":
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _size(image_CHW: Tensor) -> str:
    return f"{image_CHW.shape[2]}x{image_CHW.shape[1]}"
