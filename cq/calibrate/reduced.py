"""Calibration in less memory: maps are compared by a part of them, and the schedule follows from that part."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cq.calibrate.trajectory import Calibrate


@dataclass(frozen=True, kw_only=True)
class ReducedCalibrate(Calibrate):
    """As `Calibrate`, on `keep` of each map's positions: the ring and each comparison shrink in proportion.

    Distances are then those of the kept part, which only an equal factor for all pairs would leave the schedule alone;
    how much it changes is for an experiment to say. Channels stay apart, so the correction of the cache is fitted too.

    method: `positions`, a fixed random choice of positions, the same in every map and call; or `pooling`, means over
    adjacent positions.
    """

    keep: int
    method: Literal["positions", "pooling"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep < 1:
            raise ValueError(f"calibrate.keep={self.keep}: at least one position of a map must be kept.")

    def reduce(self, x_NCX: Tensor) -> Tensor:
        """[N, C, keep]; a map with no more positions than that as it is, flattened."""
        flat_NCX = x_NCX.flatten(2)
        size = flat_NCX.shape[2]
        if size <= self.keep:
            return flat_NCX
        if self.method == "positions":
            chosen = torch.randperm(size, generator=torch.Generator().manual_seed(size))[: self.keep].sort().values
            return flat_NCX[:, :, chosen]
        return torch.nn.functional.adaptive_avg_pool1d(flat_NCX, self.keep)
