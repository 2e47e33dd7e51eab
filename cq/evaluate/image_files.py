"""Files of images made elsewhere: found, put in order, and counted.

Found is every image of a folder and of those within it, whatever the case of its suffix; left aside are names that
begin with a dot (`._0.png`, `.DS_Store`), folders of that kind, `__MACOSX`, and files of other kinds (`Thumbs.db`). A
folder may be called as an image is.
In order: by number where all names are the same but for it, folders aside (`sample_2` before `sample_10`); else by
name, every number in it as a number. Where captions belong to the images, only the first will do.
Refused: links that lead nowhere or to a folder; JPEG, unless of a data set; kinds that no image is drawn into.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

EXACT = (".png", ".bmp", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
OTHER = (".apng", ".avif", ".dds", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".svg", ".tga")
LOSSY_REMEDY = "Compression moves every score: save the images as PNG when they are drawn."


def list_images(folder: Path, *, lossy: bool = False) -> list[Path]:
    """Every image file of a folder and its subfolders, in order.

    lossy: whether these are of a data set, so that JPEG may be among them. Raises ValueError where there are none, or
    one that scores cannot take.
    """
    if not folder.is_dir():
        told = "is no folder" if folder.exists() else "there is no such folder"
        raise ValueError(f"{folder}: {told}. Give a folder of images, or an npz file with arr_0.")
    files = []
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if suffix not in (*EXACT, *LOSSY, *OTHER):
            continue
        if not path.exists():
            raise ValueError(f"{path}: is a link to nothing. Put the image there, or remove the link.")
        if suffix in OTHER:
            kind = suffix[1:].upper()
            raise ValueError(f"{path}: is a {kind}, and images are scored as they were drawn. Save it as PNG.")
        if suffix in LOSSY and not lossy:
            raise ValueError(f"{path}: is a JPEG. {LOSSY_REMEDY}")
        files.append(path)
    if not files:
        arrays = any(path.suffix.lower() in (".npy", ".npz", ".pt") for path in _walk(folder))
        remedy = "Write its arrays into one npz file: arr_0, uint8 [N, H, W, 3]." if arrays else "Give their folder."
        raise ValueError(f"{folder}: holds no image ({', '.join((*EXACT, *LOSSY))}). {remedy}")
    found = numbers(files)
    by_name = {path: [_natural(part) for part in path.relative_to(folder).parts] for path in files}
    order = sorted(range(len(files)), key=lambda i: (found[i] if found else 0, by_name[files[i]]))
    return [files[i] for i in order]


def numbers(files: Sequence[Path]) -> list[int] | None:
    """The number of each image: the one in which names, folders aside, differ and nothing else does; None without.

    Of several that differ (`00001-SEED`) it is the first that no two images share.
    """
    split = [_natural(path.stem) for path in files]
    if len({tuple(parts[::2]) for parts in split}) > 1:
        return None
    columns = [list(column) for column in zip(*(parts[1::2] for parts in split), strict=True)]
    varying = [column for column in columns if len(set(column)) > 1] or columns[-1:]
    if len(varying) > 1:
        varying = [column for column in varying if len(set(column)) == len(files)]
    return [int(number) for number in varying[0]] if varying else None


def check_complete(files: Sequence[Path], num_images: int, *, protocol: str) -> None:
    """Raise ValueError where a number is missing or there twice, or the count is not the protocol's."""
    asked = f"protocol={protocol} has {num_images} images"
    found = numbers(files)
    if found is not None:
        _check_once(files, found)
        missing = sorted(set(range(min(found), min(found) + num_images)) - set(found))
        if missing and len(files) < num_images:
            raise ValueError(
                f"{files[0].parent}: {asked}, and {len(missing)} are missing: {_some(missing)}. Draw them first."
            )
    if len(files) != num_images:
        raise ValueError(f"{files[0].parent}: holds {len(files)} images, and {asked}. Draw or choose exactly those.")


def check_numbered(files: Sequence[Path]) -> None:
    """Raise ValueError where names do not say which image belongs to which caption."""
    found = numbers(files)
    if found is None:
        raise ValueError(
            f"{files[0]}: image i is scored with prompt i, and the names of these ({files[0].name}, {files[-1].name}, "
            "...) do not number them. Name each by the number of its prompt, as 00000.png."
        )
    _check_once(files, found)
    first, last = min(found), max(found)
    if first > 1 or last - first + 1 != len(files):
        log.warning(
            "%s: numbers go from %d to %d for %d images; they are taken in order, image i with prompt i",
            files[0].parent, first, last, len(files),
        )  # fmt: skip


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those within it, hidden ones left aside. Raises ValueError for a linked folder."""
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if linked := next((path for name in folders if (path := Path(root, name)).is_symlink()), None):
            raise ValueError(f"{linked}: is a link to a folder, which is not followed. Give that folder, or remove it.")
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _raise(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror}). Allow it, or remove it.") from error


def _check_once(files: Sequence[Path], found: Sequence[int]) -> None:
    first: dict[int, Path] = {}
    for path, number in zip(files, found, strict=True):
        if (twice := first.setdefault(number, path)) is not path:
            raise ValueError(f"{path}: is image {number} once more, beside {twice}. Remove one.")


def _natural(name: str) -> list[str | int]:
    """Words and numbers by turns, beginning and ending with a word, perhaps an empty one."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
