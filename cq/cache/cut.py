"""Cut: the model's own cut point. DeepCache's on U-Nets, the deviation across the middle blocks on transformers."""

from dataclasses import dataclass
from typing import ClassVar

from cq.core.phases import Phases


@dataclass(frozen=True, kw_only=True)
class CutPoint:
    """One site at every call, `model.site`: what CacheQuant caches (arXiv:2503.01323, figure 2 for transformers)."""

    families: ClassVar[tuple[str, ...]] = ("unet", "transformer")

    def phases(self, *, default: str, blocks: int, num_calls: int) -> Phases:
        """One phase."""
        return ((0, (default,)),)
