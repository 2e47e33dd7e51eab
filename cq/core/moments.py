"""First and second moments of pairs (source, target), per call and channel; pure arithmetic in float64."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PairMoments:
    """Sums over samples and space; each [T, C] float64, count [T, 1] or scalar float64."""

    count: Tensor
    source_TC: Tensor
    target_TC: Tensor
    source_square_TC: Tensor
    target_square_TC: Tensor
    cross_TC: Tensor

    @staticmethod
    def of(source_NCX: Tensor, target_NCX: Tensor) -> "PairMoments":
        """Moments of one batch [N, C, ...] as a table of one row (T = 1)."""
        source = source_NCX.double().movedim(1, 0).flatten(1)
        target = target_NCX.double().movedim(1, 0).flatten(1)
        return PairMoments(
            count=torch.tensor([[float(source.shape[1])]], dtype=torch.float64),
            source_TC=source.sum(1)[None].cpu(),
            target_TC=target.sum(1)[None].cpu(),
            source_square_TC=source.square().sum(1)[None].cpu(),
            target_square_TC=target.square().sum(1)[None].cpu(),
            cross_TC=(source * target).sum(1)[None].cpu(),
        )

    def __add__(self, other: "PairMoments") -> "PairMoments":
        """Merge two disjoint sets of samples: exact, in any order."""
        names = self.__dataclass_fields__
        return PairMoments(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def tensors(self, name: str) -> dict[str, Tensor]:
        """ "<name>/<field>" to tensors, for a shard."""
        return {f"{name}/{field}": getattr(self, field) for field in self.__dataclass_fields__}

    @staticmethod
    def read(tensors: Mapping[str, Tensor], name: str) -> "PairMoments":
        """What `tensors` wrote."""
        return PairMoments(**{field: tensors[f"{name}/{field}"] for field in PairMoments.__dataclass_fields__})

    @staticmethod
    def stack(rows: "list[PairMoments]") -> "PairMoments":
        """Tables of calls 0..T-1 into one table."""
        names = PairMoments.__dataclass_fields__
        return PairMoments(**{name: torch.cat([getattr(row, name) for row in rows]) for name in names})
