"""Captioned colour scenes: a real Fashion-MNIST garment, tinted, on the left or right of a plain ground.

What a scene shows is a *combination* of item, item colour, ground colour and position; its caption says just that.
A tenth of the combinations is kept from whatever makes images, so that a text-to-image model can be asked for what it
has not seen. What judges images is trained on all of them: a judge that never met a combination would learn that it
does not exist, and find any other item in it.

Legend of shape suffixes: N scene, C colour channel, H W space, K combination.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.zoo.data import CLASS_NAMES, Split, fashion_mnist

ITEMS = tuple(name.lower() for name in CLASS_NAMES)  # in the order of the labels
# far apart in hue, because the garment's grey takes away any amount of brightness
COLOURS = {
    "red": (235, 35, 40),
    "yellow": (250, 215, 30),
    "green": (40, 190, 60),
    "cyan": (40, 215, 235),
    "blue": (45, 85, 245),
    "purple": (180, 60, 225),
    "white": (250, 250, 250),
}
GROUNDS = {
    "black": (12, 12, 14),
    "white": (238, 238, 236),
    "red": (150, 30, 45),
    "green": (25, 110, 60),
    "blue": (30, 45, 130),
}
POSITIONS = ("left", "right")
ATTRIBUTES = {"item": len(ITEMS), "colour": len(COLOURS), "ground": len(GROUNDS), "position": len(POSITIONS)}
NUM_SETTINGS = len(COLOURS) * len(GROUNDS) * len(POSITIONS)
SIZE = 20  # side of the garment in pixels; the scene has 32
SHADE = 0.35  # brightness of the garment's darkest pixels; the rest follows its grey
SOLID = 28.0  # grey value from which a pixel hides the ground
CLOSING = 3  # side in pixels of the holes that are no background: stripes, prints, seams
HELD_OUT = 10  # one combination in so many

Share = Literal["trained", "held_out", "all"]  # of the combinations


class Combination(NamedTuple):
    """What a scene shows, in the words of its caption."""

    item: str
    colour: str
    ground: str
    position: str


class Scenes(NamedTuple):
    """images_NCHW: uint8 [N, 3, 32, 32]. which_N: int64, what each shows, as an index into `combinations()`."""

    images_NCHW: Tensor
    which_N: Tensor


@lru_cache(maxsize=1)
def combinations() -> tuple[Combination, ...]:
    """All 620 of them; item and ground never have one colour."""
    return tuple(
        Combination(item, colour, ground, position)
        for item in ITEMS
        for colour in COLOURS
        for ground in GROUNDS
        for position in POSITIONS
        if colour != ground
    )


def caption(combination: Combination) -> str:
    """For example 'a red ankle boot on the left of a blue ground'."""
    item, colour, ground, position = combination
    return f"a {colour} {item} on the {position} of a {ground} ground"


def held_out(combination: Combination) -> bool:
    """Whether a combination is kept from what makes images; decided by its caption's SHA-256 alone."""
    digest = hashlib.sha256(caption(combination).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT == 0


@lru_cache(maxsize=1)
def attributes() -> Tensor:
    """int64 [K, 4]: item, item colour, ground colour and position of each combination, as indices."""
    colours, grounds = list(COLOURS), list(GROUNDS)
    return torch.tensor(
        [
            (ITEMS.index(c.item), colours.index(c.colour), grounds.index(c.ground), POSITIONS.index(c.position))
            for c in combinations()
        ]
    )


@lru_cache(maxsize=3)
def choices(share: Share) -> tuple[Tensor, ...]:
    """For each item, the indices of its combinations in this share."""
    chosen = [(k, c.item) for k, c in enumerate(combinations()) if share in ("all", _share_of(c))]
    return tuple(torch.tensor([k for k, shown in chosen if shown == item]) for item in ITEMS)


def compose(garments_NCHW: Tensor, which_N: Tensor, shifts_N2: Tensor) -> Tensor:
    """Scenes uint8 [N, 3, 32, 32] from grey garments uint8 [N, 1, 32, 32] that have the item asked for.

    which_N: combinations. shifts_N2: pixels down (-2..2) and pixels in from the nearer side (0..1).
    The garment's grey, relative to its own bright pixels, becomes the brightness of its colour. A pixel hides the
    ground by its grey up to SOLID, after a closing: most garments have black pixels inside, and those are garment.
    """
    grey = garments_NCHW[:, :, 2:-2, 2:-2].float()
    alpha = _closed((grey / SOLID).clamp(max=1))
    bright = _bright(grey)
    shade = SHADE + (1 - SHADE) * (grey / bright).clamp(max=1)
    # premultiplied, or the background's black would bleed into the rim of the small garment
    small = torch.nn.functional.interpolate(
        torch.cat([alpha, alpha * shade], 1), size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
    rows = torch.arange(32) - (32 - SIZE) // 2 - shifts_N2[:, :1]
    from_left = torch.arange(32) - shifts_N2[:, 1:]
    from_right = torch.arange(32) - (32 - SIZE) + shifts_N2[:, 1:]
    _item, colour_N, ground_N, position_N = attributes()[which_N].unbind(1)
    columns = torch.where((position_N == 0)[:, None], from_left, from_right)
    inside = ((rows >= 0) & (rows < SIZE))[:, None, :, None] & ((columns >= 0) & (columns < SIZE))[:, None, None, :]
    rows, columns = rows.clamp(0, SIZE - 1), columns.clamp(0, SIZE - 1)
    placed = small.gather(2, rows[:, None, :, None].expand(-1, 2, -1, SIZE))
    placed = placed.gather(3, columns[:, None, None, :].expand(-1, 2, 32, -1)) * inside
    colour = _table(COLOURS)[colour_N][:, :, None, None]
    ground = _table(GROUNDS)[ground_N][:, :, None, None]
    pixels = colour * placed[:, 1:] + ground * (1 - placed[:, :1])
    return pixels.clamp(0, 255).round().to(torch.uint8)


def scenes(split: Split, root: Path, *, indices: Sequence[int] | range, seed: int, share: Share) -> Scenes:
    """The scenes of these indices: scene i is a function of (i, seed) and the split alone.

    Scene i has garment i modulo the number of garments, and a combination of its item from `share`.
    """
    garments, labels = fashion_mnist(split, root)
    index_N = torch.tensor(indices)
    label_N = labels[index_N % len(garments)]
    which_N = torch.empty_like(index_N)
    for item, allowed in enumerate(choices(share)):
        of_item = label_N == item
        which_N[of_item] = allowed[_drawn(index_N[of_item], seed, 0) % len(allowed)]
    return Scenes(_composed(garments, index_N % len(garments), which_N, _shifts(index_N, seed)), which_N)


def evaluation_scenes(root: Path, *, count: int, seed: int) -> Scenes:
    """Scenes of held-out captions, all equally often, from test garments: what a text-to-image model is compared with.

    Scene i shows held-out combination i modulo their number, with a garment drawn by (i, seed).
    """
    garments, labels = fashion_mnist("t10k", root)
    index_N = torch.arange(count)
    kept = torch.cat(choices("held_out"))
    which_N = kept[index_N % len(kept)]
    rows_N = torch.empty_like(index_N)
    for item in range(len(ITEMS)):
        of_item = attributes()[which_N, 0] == item
        candidates = (labels == item).nonzero()[:, 0]
        rows_N[of_item] = candidates[_drawn(index_N[of_item], seed, 0) % len(candidates)]
    return Scenes(_composed(garments, rows_N, which_N, _shifts(index_N, seed)), which_N)


def draw_scenes(
    garments_NCHW: Tensor, labels_N: Tensor, *, share: Share, contrastive: bool, generator: torch.Generator
) -> Scenes:  # fmt: skip
    """A scene of `share` for each training garment, no two of one combination.

    contrastive: all items go through the same settings (colours and position) in one random order, so that many
    scenes differ in the item alone; else telling items apart would hardly lower a contrastive loss.
    Raises ValueError where a class has more garments here than combinations.
    """
    which_N = torch.empty_like(labels_N)
    rank_S = torch.randperm(NUM_SETTINGS, generator=generator)
    for item, allowed in enumerate(choices(share)):
        of_item = labels_N == item
        count = int(of_item.sum())
        if count > len(allowed):
            raise ValueError(
                f"{count} garments of class {ITEMS[item]!r} cannot show {len(allowed)} combinations without a "
                "repetition. Draw a smaller batch."
            )
        if not contrastive:
            rank_S = torch.randperm(NUM_SETTINGS, generator=generator)
        which_N[of_item] = allowed[rank_S[_setting(allowed)].argsort()[:count]]
    down = torch.randint(-2, 3, (len(labels_N),), generator=generator)
    aside = torch.randint(0, 2, (len(labels_N),), generator=generator)
    return Scenes(compose(garments_NCHW, which_N, torch.stack([down, aside], 1)), which_N)


def _share_of(combination: Combination) -> Share:
    return "held_out" if held_out(combination) else "trained"


def _composed(garments: Tensor, rows_N: Tensor, which_N: Tensor, shifts_N2: Tensor) -> Tensor:
    """`compose` of these rows of `garments`, in parts that fit into memory."""
    parts = [torch.split(whole, 2000) for whole in (rows_N, which_N, shifts_N2)]
    return torch.cat([compose(garments[rows], which, shifts) for rows, which, shifts in zip(*parts, strict=True)])


def _shifts(index_N: Tensor, seed: int) -> Tensor:
    return torch.stack([_drawn(index_N, seed, 1) % 5 - 2, _drawn(index_N, seed, 2) % 2], 1)


def _setting(which_N: Tensor) -> Tensor:
    """Colours and position of each combination as one index, whatever the item."""
    _item, colour_N, ground_N, position_N = attributes()[which_N].unbind(1)
    return (colour_N * len(GROUNDS) + ground_N) * len(POSITIONS) + position_N


def _bright(grey_N1HW: Tensor) -> Tensor:
    """What counts as a garment's full brightness, [N, 1, 1, 1]: the 90th percentile of its own pixels."""
    pixels = grey_N1HW.flatten(1)
    ranked = pixels.sort(1).values
    covered = (pixels > SOLID).sum(1).clamp(min=1)
    rank = pixels.shape[1] - 1 - covered // 10
    return ranked.gather(1, rank[:, None]).clamp(min=1)[:, :, None, None]


def _closed(alpha: Tensor) -> Tensor:
    """Grey-scale closing: holes narrower than CLOSING are filled, the outline stays."""
    pad = CLOSING // 2
    grown = torch.nn.functional.max_pool2d(alpha, CLOSING, 1, pad)
    return -torch.nn.functional.max_pool2d(-grown, CLOSING, 1, pad)


def _table(colours: dict[str, tuple[int, int, int]]) -> Tensor:
    return torch.tensor(list(colours.values()), dtype=torch.float32)


def _drawn(index_N: Tensor, seed: int, stream: int) -> Tensor:
    """int64 [N], 0 to 2^62: SplitMix64's finalizer of (index, seed, stream), the same on every machine."""
    key = int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:8], "big")
    x = index_N.numpy().astype(np.uint64) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((x ^ (x >> np.uint64(31))) >> np.uint64(2)).astype(np.int64))
