"""FORA: attention and MLP outputs of every block are reused, gates are computed anew (arXiv:2407.01425)."""

from dataclasses import dataclass
from typing import ClassVar

from cq.core.phases import Phases


@dataclass(frozen=True, kw_only=True)
class FORA:
    """Two sites a block, before their adaLN gates. FORA's own grid is `schedule=uniform_from_end`."""

    families: ClassVar[tuple[str, ...]] = ("transformer",)

    def phases(self, *, default: str, blocks: int, num_calls: int) -> Phases:
        """One phase with every part of every block."""
        return ((0, tuple(f"blocks.{block}.{part}" for block in range(blocks) for part in ("attn", "mlp"))),)
