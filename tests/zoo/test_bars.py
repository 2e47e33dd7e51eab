"""The quality bars, on a zoo of two-step models: what is measured, not how good it is."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from cq.models import locate
from experiments.zoo import bars
from experiments.zoo.bars import BARS, Bar, Size, grid, measure
from experiments.zoo.drawing import Pixels, TextToImage, drawn
from experiments.zoo.scenes import ATTRIBUTES, combinations, evaluation_scenes, held_out
from tests.zoo import tiny_zoo

pytestmark = pytest.mark.usefixtures("garments")
SIZE = Size(num_steps=2, num_images=70, num_judged=30, guidance=None)


@pytest.fixture
def empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `zoo:NAME` is looked for."""
    monkeypatch.setattr(locate, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def judges(garments: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that judges; it knows no model."""
    folder = tmp_path_factory.mktemp("judges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate, "WEIGHTS", folder)
        tiny_zoo.judges(folder)
    return folder


@pytest.fixture
def zoo(empty_zoo: Path, judges: Path) -> Path:
    """With everything that judges."""
    return shutil.copytree(judges, empty_zoo, dirs_exist_ok=True)


@pytest.mark.parametrize("name", ["dit_mini", "sd_mini", "ddpm_mini", "ldm_uncond_mini"])
def test_every_bar_has_its_figure(name: str, zoo: Path) -> None:
    tiny_zoo.train(tiny_zoo.MODELS[name](zoo), zoo)
    figures, images = measure(name, SIZE, work=zoo / "shards", root=zoo)
    assert images.dtype == torch.uint8
    assert images.shape == (70, 3 if name == "sd_mini" else 1, 32, 32)
    for bar in BARS[name]:
        assert isinstance(bar.holds(figures), bool)
        assert bar.says in bar.line(figures)
    if name == "sd_mini":
        assert {f"right_{attribute}" for attribute in ATTRIBUTES} <= set(figures)
        assert -100 <= figures["clip_score_own"] <= 100
    again, same = measure(name, SIZE, work=zoo / "shards", root=zoo)
    assert again == figures
    assert torch.equal(same, images)


def test_finished_batches_are_not_drawn_again(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.drawn: list[range] = []

        def draw(self, images: range, generators: list[torch.Generator]) -> Tensor:
            self.drawn.append(images)
            return torch.stack([torch.rand(1, 2, 2, generator=generator) for generator in generators])

    stock = Counting()
    first = drawn(stock, num_images=5, batch_size=2, run_seed=0, work=tmp_path)
    assert stock.drawn == [range(2), range(2, 4), range(4, 5)]
    (tmp_path / "000002-000004.safetensors").unlink()
    assert torch.equal(drawn(stock, num_images=5, batch_size=2, run_seed=0, work=tmp_path), first)
    assert stock.drawn[3:] == [range(2, 4)]


def test_image_i_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    stock = Pixels(tiny_zoo.train(tiny_zoo.ddpm(tmp_path), tmp_path), 2)
    whole = drawn(stock, num_images=4, batch_size=4, run_seed=0, work=tmp_path / "whole").int()
    parts = drawn(stock, num_images=4, batch_size=1, run_seed=0, work=tmp_path / "parts").int()
    assert (whole - parts).abs().max() <= 1  # the kernels round differently by batch


def test_the_captions_drawn_are_all_the_held_out_ones_in_turn() -> None:
    stock = TextToImage(Path("not needed"), 1, 1.0)
    count = sum(held_out(c) for c in combinations())
    which = stock.which(range(2 * count)).tolist()
    assert which[:count] == which[count:]
    assert [held_out(combinations()[k]) for k in which] == [True] * (2 * count)
    # the real scenes that they are compared with are as many of each
    assert evaluation_scenes(Path("not needed"), count=2 * count, seed=1).which_N.tolist() == which


def test_a_bar_holds_on_its_own_side_and_at_its_bound() -> None:
    assert Bar("x", "", 0.9, at_least=True).holds({"x": 0.9})
    assert not Bar("x", "", 0.9, at_least=True).holds({"x": 0.89})
    assert Bar("x", "", 3.0, at_least=False).holds({"x": 3.0})
    assert not Bar("x", "", 3.0, at_least=False).holds({"x": 3.1})


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_shows_the_first_images_row_by_row(channels: int, tmp_path: Path) -> None:
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(-1, channels, 2, 2) * 30
    grid(images, columns=3, rows=2, path=tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as page:
        assert page.size == (3 * 2 * 4, 2 * 2 * 4)
        assert page.mode == ("L" if channels == 1 else "RGB")
        grey = page.convert("L")
        assert [grey.getpixel((x * 8 + 3, y * 8 + 3)) for y in range(2) for x in range(3)] == [0, 30, 60, 90, 120, 150]


def test_a_model_that_is_not_there_and_a_useless_option_are_said(
    empty_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["sd_mini"], "The package holds none"),
        (["ddpm_mini", "--guidance", "2"], "takes none"),
    ):
        monkeypatch.setattr(sys, "argv", ["bars", *arguments])
        with pytest.raises(SystemExit) as raised:
            bars.main()
        assert raised.value.code == 2
        assert message in capsys.readouterr().err
