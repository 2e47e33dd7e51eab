"""No correction: the stale or quantized value stands as it is."""

from dataclasses import dataclass

from torch import Tensor

from cq.core.contracts import LazyMoments


@dataclass(frozen=True, kw_only=True)
class NoCorrection:
    """The identity among correctors."""

    def fit(self, gather: LazyMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """None; the moments are never gathered."""
        return None
