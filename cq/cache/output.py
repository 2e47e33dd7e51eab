"""Output: a reused call runs no network, the noise prediction of the refreshes stands in for its own.

The control of every cache: what it gains over this, its cached calls are worth.
"""

from dataclasses import dataclass
from typing import ClassVar

from cq.core.denoiser import OUTPUT
from cq.core.phases import Phases


@dataclass(frozen=True, kw_only=True)
class Output:
    """One site behind the last layer. With a forecast it is a multistep solver on the grid of the refreshes."""

    families: ClassVar[tuple[str, ...]] = ("unet", "transformer")

    def phases(self, *, default: str, blocks: int, num_calls: int) -> Phases:
        """One phase."""
        return ((0, (OUTPUT,)),)
