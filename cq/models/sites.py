"""The names of sites: what a strategy can cache, as text. Reads no weights and needs no torch.

Names are read with the methods of str: a compiler that follows a call into here knows those, and not `re`'s cache.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Range:
    """Blocks first to last - 1; may be empty."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Branch:
    """The attention or the MLP of one block."""

    block: int
    name: str


def parse(site: str) -> Range | Branch:
    """A site's name to what it names; ValueError for any other text."""
    kind, _, rest = site.partition(".")
    first, _, last = rest.partition("-")
    if kind == "blocks" and first.isdecimal() and last.isdecimal():
        return Range(first=int(first), last=int(last))
    block, _, name = rest.partition(".")
    if kind == "blocks" and block.isdecimal() and name in ("attn", "mlp"):
        return Branch(block=int(block), name=name)
    raise ValueError(
        f"site={site!r}: a transformer's sites are ranges of blocks, `blocks.1-7` (blocks 1 to 6), and parts of a "
        "block, `blocks.3.attn` and `blocks.3.mlp`. Correct model.site or the strategy's own fields."
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the U-Net is cut. block, resnet: indices of the entry ResNet among the up-blocks."""

    block: int
    resnet: int

    @staticmethod
    def parse(site: str) -> "Cut":
        """`up_blocks.I.resnets.J` to a Cut; ValueError for any other text."""
        parts = site.split(".")
        numbers = [part for part in parts[1::2] if part.isdecimal()]
        if parts[::2] != ["up_blocks", "resnets"] or len(numbers) != 2:
            raise ValueError(
                f"model.site={site!r}: a U-Net's cut point is named by its entry ResNet, `up_blocks.I.resnets.J` "
                "(the last ResNet of the last up-block is the shallowest cut)."
            )
        return Cut(block=int(numbers[0]), resnet=int(numbers[1]))

    @property
    def site(self) -> str:
        return f"up_blocks.{self.block}.resnets.{self.resnet}"


def check_blocks(sites: tuple[str, ...], blocks: int) -> None:
    """Raise ValueError for a site that a transformer of `blocks` blocks does not have."""
    for site in sites:
        place = parse(site)
        if isinstance(place, Range) and not 0 <= place.first <= place.last <= blocks:
            raise ValueError(f"site={site!r}: this transformer has blocks 0 to {blocks - 1}; L <= R <= {blocks}.")
        if isinstance(place, Branch) and place.block >= blocks:
            raise ValueError(f"site={site!r}: this transformer has blocks 0 to {blocks - 1}.")


def cuts_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Every site of a U-Net, from its diffusers configuration: an up-block has one ResNet more than a down-block."""
    count = len(config["up_block_types"])
    layers = config["layers_per_block"]
    each = [layers] * count if isinstance(layers, int) else list(reversed(layers))
    return tuple(Cut(block=i, resnet=j).site for i in range(count) for j in range(each[i] + 1))


def check_cut(site: str, names: Iterable[str]) -> None:
    """Raise ValueError unless `site` is one of the U-Net's."""
    if Cut.parse(site).site not in names:
        raise ValueError(f"model.site={site!r}: this U-Net has {', '.join(names)}. Choose from those.")
