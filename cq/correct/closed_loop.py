"""Closed loop: the prediction is corrected, call after call, towards the full-precision trajectory.

What comes of it is a fitted linear solver, which absorbs whatever caching and quantization do to a trajectory.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from cq.core.values import Batch, Distinct


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """At every call, in order, on states that the deployed sampler has come to with all corrections before it, the
    prediction that would lead to the full-precision state of the same image is fitted by least squares, channel by
    channel, as a sum of terms and a constant (`cq.correct.along`).

    terms: beside the network's own prediction: `state`, prediction and state at the last refresh (`held_noise`,
    `held_state`), and the prediction at the one before it (`earlier_noise`, which goes with `held_noise`). ridge: of
    the mean diagonal of the normal equations; it damps directions that the trajectory needs, so it only guards the
    solver. num_samples, batch_size: calibration trajectories.
    """

    terms: Annotated[tuple[Literal["state", "held_noise", "held_state", "earlier_noise"], ...], Distinct()]
    ridge: float
    num_samples: Batch
    batch_size: Batch
    corrects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if "earlier_noise" in self.terms and "held_noise" not in self.terms:
            raise ValueError(
                "correct.output.terms: earlier_noise is what held_noise was. Add held_noise, or leave it out."
            )

    def solve(self, gram_CKK: Tensor, cross_CK: Tensor) -> Tensor:
        """Weights float64 [C, K] of the terms. gram_CKK, cross_CK: sums of products with themselves, and the target."""
        size = gram_CKK.shape[1]
        mean_C = gram_CKK.diagonal(dim1=1, dim2=2).mean(1)
        ridge_CKK = self.ridge * mean_C[:, None, None] * torch.eye(size, dtype=gram_CKK.dtype)
        # rank-revealing: where nothing has been disturbed yet, terms are copies of one another
        found: Tensor = torch.linalg.lstsq(gram_CKK + ridge_CKK, cross_CK[..., None], driver="gelsd").solution
        return found[..., 0]
