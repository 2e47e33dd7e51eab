"""Weighted distance: a call counts by how much of the final sample its prediction decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics
from cq.core.values import Within
from cq.sampler.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """The base distance times (share of the call in the final sample) ** power.

    In the variable x / sqrt(alpha_bar) a deterministic DDIM step adds (drop of sigma) * eps, so an error of eps at
    call t reaches the final sample in proportion to the drop of sigma there, if later calls do not react to it.

    base: which distance. power: 1 the share itself, 0.5 its square root, 0 the base distance unchanged.
    """

    base: Literal["l1", "squared"]
    power: Annotated[float, Within(0, 100, "0.5 or 1")]

    def __post_init__(self) -> None:
        if self.base not in ("l1", "squared"):
            raise ValueError(f"cost.base={self.base!r}: there is no such distance. Choose l1 or squared.")
        if not 0 <= self.power < inf:
            raise ValueError(f"cost.power={self.power}: must be finite and not negative. 1 weighs by the share itself.")

    def check_noise(self, stored: Mapping[str, Any]) -> None:
        """Raise ValueError where a weight would mean nothing.

        Weights are those of errors in a prediction of the noise, and finite only where the first call sees a signal.
        """
        noise = Stored.of(stored)
        if noise.prediction != "epsilon" or noise.zero_snr:
            found = (
                f"prediction_type={noise.prediction!r}" if noise.prediction != "epsilon" else "rescale_betas_zero_snr"
            )
            raise ValueError(
                f"weighs calls by how an error in the predicted noise reaches the image, and the model's stored "
                f"scheduler has {found}. Take an unweighted cost: cost=l1 or cost=residual."
            )

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0. A call of zero share costs nothing."""
        base_TD = statistics.l1_TD if self.base == "l1" else statistics.squared_TD
        weight_T = step_shares(statistics.sigma_T) ** self.power
        # inf * 0 is NaN: keep the calls that do not exist out of the product
        return torch.where(base_TD.isinf(), base_TD, base_TD * weight_T[:, None])


def step_shares(sigma_T: Tensor) -> Tensor:
    """float64 [T], mean 1: the drop of sigma = sqrt((1 - alpha_bar) / alpha_bar) at each call, the last one to zero.

    Raises ValueError where sigma is infinite (alpha_bar 0), rises during sampling or is zero throughout.
    """
    sigma_T = sigma_T.double()
    if not sigma_T.isfinite().all():
        raise ValueError(
            "cost: the noise level sigma is not finite at every call (alpha_bar reaches 0), so no call has a share in "
            "the sample. Take an unweighted cost (cost=l1) for this noise scheduler."
        )
    drop_T = sigma_T - torch.cat([sigma_T[1:], sigma_T.new_zeros(1)])
    if (drop_T < 0).any() or drop_T.sum() <= 0:
        call = int(drop_T.argmin())
        raise ValueError(
            f"cost: the noise level sigma must fall during sampling, but changes by {-float(drop_T[call]):.3g} at call "
            f"{call}. Take an unweighted cost (cost=l1) for this noise scheduler."
        )
    return drop_T / drop_T.mean()
