"""No correction: the stale or quantized value stands as it is."""

from dataclasses import dataclass

from torch import Tensor

from cq.calibrate.moments import PairMoments


@dataclass(frozen=True, kw_only=True)
class NoCorrection:
    """The identity among correctors."""

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """None, whatever the moments."""
        return None
