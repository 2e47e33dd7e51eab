from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cq.evaluate.image_folder import Fit, batches, check_complete, list_images, read_images, read_npz


def write(folder: Path, *names: str, size: tuple[int, int] = (6, 4)) -> list[Path]:
    """Files of random colours, each another."""
    generator = np.random.default_rng(len(names))
    for name in names:
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(folder / name)
    return list_images(folder, lossy=True)


def test_numbers_are_ordered_as_numbers_and_names_as_names(tmp_path: Path) -> None:
    files = write(tmp_path / "a", "10.png", "9.png", "sub/2.png")
    assert [path.stem for path in files] == ["2", "9", "10"]
    assert [path.stem for path in write(tmp_path / "b", "b10.png", "b9.png")] == ["b10", "b9"]


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
    with pytest.raises(ValueError, match="is no folder"):
        list_images(tmp_path / "d")
    np.savez(tmp_path / "e.npz", labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"e.npz: cannot be read"):
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
    with pytest.raises(ValueError, match=r"comes out as 5x5, others as 6x4. Set protocol.fit"):
        list(batches(files, Fit(fit=None, resize=None, crop=None), batch_size=3))
    whole = list(batches(files, Fit(fit="squash", resize=4, crop=None), batch_size=2))
    assert torch.cat(whole).shape == (3, 3, 4, 4)
