"""npz files that others wrote: what they hold is read from their heads and refused by name before anything is computed.

Legend of shape suffixes: N image, C channel, H W space.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SINGLE = b"\x93NUMPY"  # what a file of np.save begins with


class Head(NamedTuple):
    """What an array is, without its values. shape: () for a single value."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def read_heads(path: Path) -> Mapping[str, Head]:
    """The arrays of a file by their names. Raises ValueError for a file that is missing, no npz, or damaged."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Give an npz file that is there.")
    with path.open("rb") as file:
        start = file.read(len(SINGLE))
    if start == SINGLE:
        raise ValueError(f"{path}: is one array of np.save's. Write it with np.savez, which calls it arr_0.")
    if not start.startswith(b"PK"):
        kind = "is empty" if not start else "is no npz file"
        raise ValueError(f"{path}: {kind}. Write the arrays with np.savez, or fetch the file again.")
    heads = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        heads[name.removesuffix(".npy")] = _head(member)
    except Exception as error:  # a damaged file fails in as many ways as it has layers
        raise _damaged(path, error) from error
    if objects := sorted(key for key, head in heads.items() if head.dtype.hasobject):
        raise ValueError(
            f"{path}: {objects[0]} holds Python objects, which are not unpickled. Write it as an array of numbers: its "
            "rows may be of several shapes."
        )
    return heads


def read_array(path: Path, key: str) -> NDArray[Any]:
    """One array of a file that `read_heads` has read. Raises ValueError where it is damaged."""
    try:
        with path.open("rb") as raw, np.load(raw) as stored:  # numpy leaves a broken file open
            array: NDArray[Any] = stored[key]
    except Exception as error:
        raise _damaged(path, error) from error
    return array


def check_image_array(where: str, head: Head) -> None:
    """Raise ValueError for anything but images, uint8 [N, H, W, 3]; where: file and key, in words."""
    dtype, shape = head
    wrong = f"{where} is {dtype} {list(shape)}, and images are uint8 [N, H, W, 3]. "
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        raise ValueError(f"{wrong}Its channels come first: write it with .transpose(0, 2, 3, 1).")
    if len(shape) == 3 and shape[2] == 3:
        raise ValueError(f"{wrong}It is a single image: write it with images[None].")
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        grey = "" if len(shape) == 4 else "[..., None]"
        raise ValueError(f"{wrong}It is grey: write it with np.repeat(images{grey}, 3, axis=-1).")
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(f"{wrong}Give the images as they were drawn.")
    if dtype.kind == "f":
        raise ValueError(
            f"{wrong}Write it as the images were rounded: (images * 255).round().astype('uint8') for values of 0 to 1."
        )
    if dtype != np.uint8:
        raise ValueError(f"{wrong}Write it with .astype('uint8') if its values are 0 to 255.")


def _head(member: Any) -> Head:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return Head(dtype, shape)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: is damaged or cut short ({error or type(error).__name__}). Write or fetch it again.")
