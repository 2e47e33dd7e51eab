"""Scenes: what they show is what their caption says, and the splits keep apart."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.zoo.scenes import (
    COLOURS,
    GROUNDS,
    ITEMS,
    POSITIONS,
    Combination,
    attributes,
    caption,
    choices,
    combinations,
    compose,
    draw_scenes,
    held_out,
    scenes,
)

ROOT = Path("not needed")
NOWHERE = torch.zeros(1, 2, dtype=torch.int64)


def index(item: str, colour: str, ground: str, position: str) -> Tensor:
    return torch.tensor([combinations().index(Combination(item, colour, ground, position))])


def block(grey: int = 200) -> Tensor:
    """One garment, a solid block in the middle."""
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[..., 6:26, 10:22] = grey
    return image


def test_item_and_ground_never_have_one_colour_and_captions_are_unique() -> None:
    assert len({caption(c) for c in combinations()}) == len(combinations()) == 620
    assert all(c.colour != c.ground for c in combinations())
    assert caption(combinations()[int(index("ankle boot", "red", "blue", "left"))]) == (
        "a red ankle boot on the left of a blue ground"
    )


def test_a_tenth_is_held_out_and_still_has_every_word_trained_on() -> None:
    kept = [c for c in combinations() if held_out(c)]
    assert 0.08 < len(kept) / len(combinations()) < 0.12
    for chosen in (torch.cat(choices("trained")), torch.cat(choices("held_out"))):
        for column, words in enumerate((ITEMS, COLOURS, GROUNDS, POSITIONS)):
            assert set(attributes()[chosen, column].tolist()) == set(range(len(words)))
    assert sorted(torch.cat([*choices("trained"), *choices("held_out")]).tolist()) == list(range(620))


def test_attributes_are_the_words_of_the_combination() -> None:
    found = attributes()[index("bag", "cyan", "green", "right")][0].tolist()
    assert found == [ITEMS.index("bag"), list(COLOURS).index("cyan"), list(GROUNDS).index("green"), 1]


def test_a_scene_is_a_function_of_index_and_seed(garments: None) -> None:
    whole = scenes("train", ROOT, indices=range(700), seed=3, share="trained")
    some = scenes("train", ROOT, indices=[650, 7], seed=3, share="trained")
    assert torch.equal(whole.images_NCHW[[650, 7]], some.images_NCHW)
    assert torch.equal(whole.which_N[[650, 7]], some.which_N)
    other = scenes("train", ROOT, indices=range(700), seed=4, share="trained")
    assert (whole.which_N != other.which_N).double().mean() > 0.9
    # integers only, so these hold on every machine
    of_test = scenes("t10k", ROOT, indices=range(5), seed=3, share="trained")
    assert whole.which_N[:5].tolist() == of_test.which_N.tolist()


def test_training_scenes_and_held_out_scenes_share_no_combination(garments: None) -> None:
    trained = scenes("train", ROOT, indices=range(3000), seed=1, share="trained").which_N
    kept = scenes("t10k", ROOT, indices=range(3000), seed=1, share="held_out").which_N
    assert not any(held_out(combinations()[k]) for k in trained.tolist())
    assert all(held_out(combinations()[k]) for k in kept.tolist())
    assert len(set(kept.tolist())) == sum(held_out(c) for c in combinations())


def test_the_item_of_a_scene_is_its_garments_class(garments: None) -> None:
    found = scenes("train", ROOT, indices=range(40), seed=1, share="trained")
    assert attributes()[found.which_N, 0].tolist() == [i % 10 for i in range(40)]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("position", POSITIONS)
def test_colours_and_position_are_those_of_the_caption(colour: str, position: str) -> None:
    ground = "black" if colour != "blue" else "white"
    image = compose(block(), index("coat", colour, ground, position), NOWHERE)[0].double()
    assert image[:, 0, 16].tolist() == list(GROUNDS[ground])
    item = (image - image[:, :1, :1]).abs().sum(0) > 100
    torch.testing.assert_close(
        image[:, 14, 10 if position == "left" else 21].tolist(), list(map(float, COLOURS[colour]))
    )
    centre = (item * torch.arange(32)).sum() / item.sum()
    assert (centre < 14) == (position == "left")
    assert (centre > 18) == (position == "right")


def test_dark_pixels_inside_a_garment_are_garment_and_its_texture_remains() -> None:
    garment = block()
    garment[..., 15, 12:20] = 0  # a stripe as dark as the background
    garment[..., 18:24, 12:20] = 100  # a darker patch
    image = compose(garment, index("coat", "red", "white", "left"), NOWHERE)[0].double()
    stripe, patch, cloth = image[:, 15, 10], image[:, 19, 10], image[:, 11, 10]
    assert stripe[0] < 200  # red and dark, not the white ground
    assert stripe[2] < 60
    assert stripe.sum() < cloth.sum()
    assert patch.sum() < 0.8 * cloth.sum()


def test_a_batch_repeats_no_combination(garments: None) -> None:
    images = block().expand(128, -1, -1, -1)
    labels = torch.arange(128) % 10
    first, again, other = (
        draw_scenes(
            images, labels, share="trained", contrastive=contrastive, generator=torch.Generator().manual_seed(0)
        )
        for contrastive in (True, True, False)
    )
    assert torch.equal(first.images_NCHW, again.images_NCHW)
    assert len(set(first.which_N.tolist())) == 128
    assert torch.equal(attributes()[first.which_N, 0], labels)
    settings = attributes()[first.which_N, 1:].tolist()
    assert (
        len({tuple(setting) for setting in settings}) < 30
    )  # so that most scenes have one of another item beside them
    assert len({tuple(setting) for setting in attributes()[other.which_N, 1:].tolist()}) > 50
    with pytest.raises(ValueError, match="smaller batch"):
        draw_scenes(
            block().expand(90, -1, -1, -1), torch.zeros(90, dtype=torch.int64), share="all", contrastive=True,
            generator=torch.Generator(),
        )  # fmt: skip
