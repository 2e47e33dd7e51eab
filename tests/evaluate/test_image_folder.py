import io
import logging
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cq.evaluate.image_files import check_complete, check_numbered, list_images, numbers
from cq.evaluate.image_pixels import Fit, batches, check_data_set, read_images, read_npz

AS_IT_IS = Fit(fit=None, resize=None, crop=None)


def write(folder: Path, *names: str, size: tuple[int, int] = (6, 4)) -> list[Path]:
    """Files of random colours, each another."""
    generator = np.random.default_rng(len(names))
    for name in names:
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(folder / name)
    return list_images(folder, lossy=True)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["2.png", "9.png", "10.png"], [2, 9, 10]),
        (["b2.png", "b9.png", "b10.png"], [2, 9, 10]),
        (["sub/2.png", "9.png", "sub/10.png"], [2, 9, 10]),
        (["sd_v1_4_2.png", "sd_v1_4_10.png"], [2, 10]),
        (["00001-9.png", "00002-7.png", "00010-8.png"], [1, 2, 10]),
        (["COCO_val_000000000139.PNG", "COCO_val_000000000285.PNG"], [139, 285]),
        (["0/7.png", "1/7.png", "0/8.png"], [7, 7, 8]),
        (["a/b2.png", "a/b10.png", "a/c1.png"], None),
        (["0_0.png", "0_1.png", "1_0.png", "1_1.png"], None),
        (["a2.png", "a10.png", "a10b.png"], None),
        (["cat.png", "dog.png"], None),
    ],
)
def test_images_are_ordered_by_the_number_in_their_names(
    names: list[str], found: list[int] | None, tmp_path: Path
) -> None:
    files = write(tmp_path, *reversed(names))
    assert [str(path.relative_to(tmp_path)) for path in files] == names
    assert numbers(files) == found


def test_images_of_captions_must_be_numbered_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_numbered(write(tmp_path / "a", "s_0.png", "s_1.png", "s_2.png"))
    check_numbered(write(tmp_path / "b", "1.png", "2.png"))
    assert not caplog.records
    check_numbered(write(tmp_path / "c", "0.png", "1.png", "3.png"))
    assert "numbers go from 0 to 3 for 3 images; they are taken in order" in caplog.text
    with pytest.raises(ValueError, match=r"cat.png, dog.png, \.\.\.\) do not number them. Name each by the number"):
        check_numbered(write(tmp_path / "d", "cat.png", "dog.png"))
    with pytest.raises(ValueError, match=r"1.png: is image 1 once more, beside .*1.png"):
        check_numbered(write(tmp_path / "e", "1.png", "01.png"))


def test_what_is_no_image_of_the_folder_is_left_aside(tmp_path: Path) -> None:
    folder = tmp_path / "x.png"
    names = write(folder, "0.PNG", "1.Tif", "y.png/2.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt", ".cache/3.png", "__MACOSX/4.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"none")
    (folder / "5.png").symlink_to(write(tmp_path / "other", "5.png", "6.png")[0])
    files = list_images(folder)
    assert [path.name for path in files] == ["0.PNG", "1.Tif", "2.png", "5.png"]
    assert files[:3] == names
    assert len(read_images(files)) == 4
    (folder / "6.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"6.png: is a link to nothing"):
        list_images(folder)
    (folder / "6.png").unlink()
    (folder / "more").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match=r"more: is a link to a folder"):
        list_images(folder)


def png(bits: int, colour: int, rows_HWC: np.ndarray) -> bytes:
    """A PNG by hand: Pillow writes none of 16 bits and colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", rows_HWC.shape[1], len(rows_HWC), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows_HWC))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
CLEAR = np.concatenate([COLOURS, np.full((4, 6, 1), 255, dtype=np.uint8)], axis=2)
TURNED = Image.Exif()
TURNED[274] = 6


def saved(kind: str, array: np.ndarray | Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_way_to_store_8_bits_gives_the_same_pixels(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOURS).quantize(200)
    stored = {
        "a.png": (saved("PNG", CLEAR), COLOURS),  # all of it opaque
        "b.webp": (saved("WEBP", COLOURS, lossless=True), COLOURS),
        "c.bmp": (saved("BMP", COLOURS), COLOURS),
        "d.tiff": (saved("TIFF", COLOURS, compression="tiff_lzw"), COLOURS),
        "e.ppm": (saved("PPM", COLOURS), COLOURS),
        "f.png": (saved("PNG", GREY), np.stack([GREY] * 3, axis=2)),  # as an optimizer stores a grey image
        "g.png": (saved("PNG", palette), np.asarray(palette.convert("RGB"))),
        "h.png": (saved("PNG", palette, transparency=255), np.asarray(palette.convert("RGB"))),  # of no pixel
        "j.png": (saved("PNG", COLOURS, exif=Image.Exif()), COLOURS),
        "i.png": (saved("PNG", np.stack([GREY, CLEAR[..., 3]], axis=2)), np.stack([GREY] * 3, axis=2)),
    }
    for name, (data, pixels) in stored.items():
        (tmp_path / name).write_bytes(data)
        (image_CHW,) = read_images([tmp_path / name])
        np.testing.assert_array_equal(image_CHW.permute(1, 2, 0), pixels, err_msg=name)


HALF = CLEAR.copy()
HALF[0, 0, 3] = 254
DEEP = COLOURS.astype(np.uint16) * 257
UNFIT: dict[str, tuple[str, bytes, str]] = {
    "16-bit grey": ("png", saved("PNG", DEEP[..., 0]), "more than 8 bits"),
    "16-bit colour": ("png", png(16, 2, DEEP.astype(">u2")), "more than 8 bits"),
    "16-bit TIFF": ("tif", saved("TIFF", DEEP[..., 0]), "more than 8 bits"),
    "float TIFF": ("tiff", saved("TIFF", GREY.astype(np.float32)), "more than 8 bits"),
    "16-bit PPM": ("ppm", b"P6\n6 4\n65535\n" + DEEP.astype(">u2").tobytes(), "more than 8 bits"),
    "alpha": ("png", saved("PNG", HALF), "see through"),
    "transparent colour": ("png", saved("PNG", COLOURS, transparency=tuple(map(int, COLOURS[1, 1]))), "see through"),
    "transparent palette": (
        "png", saved("PNG", Image.fromarray(COLOURS).quantize(4), transparency=0), "see through",
    ),
    "a GIF": ("gif", saved("GIF", COLOURS), "is a GIF"),
    "a GIF by another name": ("png", saved("GIF", COLOURS), "is a GIF"),
    "animation": ("webp", saved("WEBP", Image.fromarray(COLOURS), save_all=True, lossless=True,
                                append_images=[Image.fromarray(255 - COLOURS)]), "holds 2 pictures"),
    "two pages": ("tif", saved("TIFF", Image.fromarray(COLOURS), save_all=True,
                               append_images=[Image.fromarray(COLOURS)]), "holds 2 pictures"),
    "a JPEG 2000": ("jp2", b"", "is a JP2"),
    "nothing": ("png", b"", "cannot be read"),
    "cut short": ("png", saved("PNG", COLOURS)[:-30], "cannot be read"),
    "words": ("png", b"404 not found", "cannot be read"),
}  # fmt: skip
OF_A_CAMERA: dict[str, tuple[str, bytes, str]] = {
    "a JPEG": ("JPG", saved("JPEG", COLOURS), "is a JPEG"),
    "a JPEG by another name": ("png", saved("JPEG", COLOURS), "is compressed as JPEG"),
    "a JPEG in TIFF": ("tif", saved("TIFF", COLOURS, compression="jpeg"), "is compressed as JPEG"),
    "lossy WebP": ("webp", saved("WEBP", COLOURS), "is compressed as WebP"),
    "print": ("tif", saved("TIFF", Image.fromarray(COLOURS).convert("CMYK")), "colours of print"),
    "turned": ("png", saved("PNG", COLOURS, exif=TURNED), "turned by its EXIF"),
}


@pytest.mark.parametrize("name", [*UNFIT, *OF_A_CAMERA])
def test_what_would_be_other_pixels_than_were_drawn_is_refused_by_name(name: str, tmp_path: Path) -> None:
    suffix, data, told = (UNFIT | OF_A_CAMERA)[name]
    (tmp_path / f"0.{suffix}").write_bytes(data)
    with pytest.raises(ValueError, match=rf"0\.{suffix}: .*{told}.*\."):
        read_images(list_images(tmp_path))


@pytest.mark.parametrize("name", UNFIT)
def test_a_data_set_is_refused_before_its_features_are_computed(name: str, tmp_path: Path) -> None:
    if name == "cut short":
        pytest.skip("known only when its pixels are decoded")
    suffix, data, told = UNFIT[name]
    (tmp_path / f"0.{suffix}").write_bytes(data)
    with pytest.raises(ValueError, match=rf"0\.{suffix}: .*{told}.*\."):
        check_data_set(list_images(tmp_path, lossy=True), AS_IT_IS)


def test_what_a_camera_did_to_a_data_set_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cq.evaluate.image_pixels")
    for i, image in enumerate((Image.fromarray(COLOURS), Image.fromarray(COLOURS).convert("CMYK"))):
        (tmp_path / f"{i}.jpg").write_bytes(saved("JPEG", image, exif=TURNED))
    files = list_images(tmp_path, lossy=True)
    check_data_set(files, AS_IT_IS)
    assert "1 images are CMYK, and become RGB" in caplog.text
    assert "2 images are turned by their EXIF, which is not applied" in caplog.text
    assert next(batches(files, AS_IT_IS, batch_size=2)).shape == (2, 3, 4, 6)


SHAPE = (2, 4, 6, 3)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": np.zeros(SHAPE, np.uint8)}, "holds images, and .* under arr_0. Write them there: np.savez"),
        ({"arr_0": np.zeros((2, 3, 4, 6), np.uint8)}, r"uint8 \[2, 3, 4, 6\], .*transpose\(0, 2, 3, 1\)"),
        ({"arr_0": np.zeros(SHAPE, np.float32)}, r"float32 .*\(images \* 255\).round\(\)"),
        ({"arr_0": np.zeros(SHAPE, np.int64)}, r"int64 .*astype\('uint8'\) if its values are"),
        ({"arr_0": np.zeros((2, 4, 6), np.uint8)}, r"np.repeat\(images\[\.\.\., None\], 3, axis=-1\)"),
        ({"arr_0": np.zeros(SHAPE[1:], np.uint8)}, r"It is a single image: write it with images\[None\]"),
        ({"arr_0": np.zeros((2, 4, 6, 1), np.uint8)}, r"np.repeat\(images, 3, axis=-1\)"),
        ({"arr_0": np.zeros((2, 4, 6, 4), np.uint8)}, r"\[2, 4, 6, 4\], and images are"),
        ({"arr_0": np.zeros((0, 4, 6, 3), np.uint8)}, r"\[0, 4, 6, 3\], and images are"),
        ({"arr_0": np.array([None, "a"], dtype=object)}, "arr_0 holds Python objects"),
        ({}, r"holds no arrays, .*: np.savez\('.*a.npz', images\)"),
    ],
)
def test_other_arrays_than_images_are_refused_with_what_makes_them_images(
    arrays: dict[str, np.ndarray], told: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"a.npz: .*{told}"):
        read_npz(tmp_path / "a.npz")


def test_the_remedies_for_arrays_work(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    path = tmp_path / "a.npz"
    np.savez(path, samples=images)
    with pytest.raises(ValueError, match="Write them there") as refused:
        read_npz(path)
    exec(str(refused.value).rpartition(": ")[2], {"np": np})
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert read_npz(path).equal(expected)
    np.savez(path, (images / 255).astype(np.float32).__mul__(255).round().astype("uint8"), np.zeros(2))  # and labels
    assert read_npz(path).equal(expected)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "is empty"), ("npy", "is one array of np.save's"), ("words", "is no npz file"),
        ("cut", "is damaged or cut short"), ("flipped", "is damaged or cut short"), ("raw", "is damaged"),
        ("huge", "is damaged"), ("missing", "there is no such file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_npz_is_refused_by_its_kind(name: str, told: str, tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez(whole, np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8))
    single = io.BytesIO()
    np.save(single, np.zeros(SHAPE, np.uint8))
    flipped = bytearray(whole.getvalue())
    flipped[250] ^= 1  # among the pixels

    def archive(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("arr_0.npy", content)
        return buffer.getvalue()

    data = {
        "empty": b"", "npy": single.getvalue(), "words": b"404 not found", "cut": whole.getvalue()[:-40],
        "flipped": bytes(flipped), "raw": archive(b"no array"),
        "huge": archive(single.getvalue()[:128].replace(b"(2, 4, 6, 3)", b"(9999999, 9999, 9999, 3)")),
    }  # fmt: skip
    if name in data:
        (tmp_path / "a.npz").write_bytes(data[name])
    with pytest.raises(ValueError, match=rf"a.npz: {told}.*\."):
        read_npz(tmp_path / "a.npz")


def test_pixels_survive(tmp_path: Path) -> None:
    files = write(tmp_path, "0.png", "1.png")
    images = read_images(files)
    assert images.shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), np.asarray(Image.open(files[1])))
    np.savez(tmp_path / "a.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    assert read_npz(tmp_path / "a.npz").equal(images)


def test_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, *(f"{i:03d}.png" for i in (0, 1, 3, 4, 6)))
    with pytest.raises(ValueError, match=r"protocol=p has 7 images, and 2 are missing: 2, 5"):
        check_complete(files, 7, protocol="p")
    with pytest.raises(ValueError, match=r"holds 5 images, and protocol=p has 4"):
        check_complete(files, 4, protocol="p")
    check_complete(write(tmp_path / "named", "a.png", "b.png"), 2, protocol="p")
    with pytest.raises(ValueError, match=r"holds 2 images, and protocol=p has 3"):
        check_complete(list_images(tmp_path / "named"), 3, protocol="p")


def test_a_number_twice_and_equal_pixels_are_refused_by_both_names(tmp_path: Path) -> None:
    files = write(tmp_path / "a", "7.png", "007.png")
    with pytest.raises(ValueError, match=r"7.png: is image 7 once more, beside .*7.png"):
        check_complete(files, 2, protocol="p")
    (first,) = write(tmp_path / "b", "0.png")
    (tmp_path / "b/1.png").write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"b/1.png: is pixel for pixel .*b/0.png"):
        read_images(list_images(tmp_path / "b"))
    np.savez(tmp_path / "c.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="image 1 is pixel for pixel image 0"):
        read_npz(tmp_path / "c.npz")


def test_several_sizes_a_jpeg_nothing_and_damage_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", "0.png")
    files = write(tmp_path / "a", "1.png", "2.png", size=(5, 5))
    with pytest.raises(ValueError, match=r"1.png: is 5x5 and .*0.png is 6x4"):
        read_images(files)
    write(tmp_path / "b", "0.jpg")
    with pytest.raises(ValueError, match=r"0.jpg: is a JPEG"):
        list_images(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        list_images(tmp_path / "c")
    (tmp_path / "c/0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0.png: cannot be read"):
        read_images(list_images(tmp_path / "c"))
    with pytest.raises(ValueError, match="there is no such folder"):
        list_images(tmp_path / "d")
    np.savez(tmp_path / "e.npz", labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"e.npz: holds labels"):
        read_npz(tmp_path / "e.npz")


@pytest.mark.parametrize(("how", "shape"), [("centre", (10, 10)), ("squash", (10, 20))])
def test_images_of_a_reference_are_fitted(how: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """`centre` sees the central square alone; `squash` the whole image, so the red rim shows."""
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :5, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "0.png")
    fitted = next(batches(list_images(tmp_path), Fit(fit=how, resize=8, crop=6), batch_size=2))
    assert fitted.shape == (1, 3, 6, 6)
    assert bool((fitted[0, 0] > 100).any()) == (how == "squash")
    assert not fitted[0, 1:].any()


def test_images_that_come_out_in_several_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "0.png")
    files = write(tmp_path, "1.png", "2.png", size=(5, 5))
    with pytest.raises(ValueError, match=r"1.png: comes out as 5x5, others as 6x4. Set protocol.fit"):
        check_data_set(files, AS_IT_IS)
    with pytest.raises(ValueError, match=r"0.png: is 6x4, and protocol.crop=5 takes more. Set protocol.resize"):
        check_data_set(files, Fit(fit=None, resize=None, crop=5))
    for fit in (Fit(fit="squash", resize=4, crop=None), Fit(fit=None, resize=None, crop=4)):
        check_data_set(files, fit)
        assert torch.cat(list(batches(files, fit, batch_size=2))).shape == (3, 3, 4, 4)
