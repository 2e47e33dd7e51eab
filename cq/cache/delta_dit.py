"""Delta-DiT: rear blocks are skipped early in sampling, front blocks late (arXiv:2406.01125)."""

from dataclasses import dataclass
from typing import ClassVar

from cq.core.phases import Phases


@dataclass(frozen=True, kw_only=True)
class DeltaDiT:
    """The deviation across `skipped` blocks stands in for running them: the last ones before the boundary, the first
    ones after it, for front blocks draw outlines and rear blocks details.

    Every refresh records both deviations, so the boundary needs no refresh of its own.

    skipped: blocks that a cached call does not run; 0 is the plain model. boundary: the share of the calls that
    belong to the early phase. keep: blocks at the skipped end that run all the same (1: the very first and last).
    """

    skipped: int
    boundary: float
    keep: int
    families: ClassVar[tuple[str, ...]] = ("transformer",)

    def __post_init__(self) -> None:
        if self.skipped < 0 or self.keep < 0:
            raise ValueError(f"cache.skipped={self.skipped}, cache.keep={self.keep}: must be 0 or more.")
        if not 0 <= self.boundary <= 1:
            raise ValueError(f"cache.boundary={self.boundary}: a share of the calls, between 0 and 1.")

    def phases(self, *, default: str, blocks: int, num_calls: int) -> Phases:
        """Early: the rear range; late: the front range. ValueError where the model has too few blocks."""
        if self.skipped + self.keep > blocks:
            raise ValueError(
                f"cache.skipped={self.skipped}: with cache.keep={self.keep} this needs {self.skipped + self.keep} "
                f"blocks and the model has {blocks}. Skip fewer."
            )
        rear = f"blocks.{blocks - self.keep - self.skipped}-{blocks - self.keep}"
        front = f"blocks.{self.keep}-{self.keep + self.skipped}"
        turn = round(self.boundary * num_calls)
        if turn == 0:
            return ((0, (front,)),)
        return ((0, (rear,)),) if turn >= num_calls else ((0, (rear,)), (turn, (front,)))
