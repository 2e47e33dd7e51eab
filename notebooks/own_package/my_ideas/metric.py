"""How wrong the worst pixel is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cq.core.contracts import Better
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class WorstPixel:
    """`worst_pixel_fp`: the largest difference from full precision, the mean over images of the one of each.

    levels: what white is, 255 for grey levels.
    """

    better: ClassVar[Better] = {"worst_pixel_fp": "down"}

    levels: float

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        """One score; it compares images of the same seed."""
        ours, theirs = context.pairs()
        worst_N = (ours.images_NCHW.float() - theirs.images_NCHW.float()).abs().flatten(1).amax(1)
        return {
            "worst_pixel_fp": Score(
                value=float(worst_N.mean()) * self.levels / 255, low=None, high=None, better="down",
                protocol=context.protocol("worst_pixel_fp", {"levels": self.levels}),
            )
        }  # fmt: skip
