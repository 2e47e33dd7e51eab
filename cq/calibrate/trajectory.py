"""The one full-precision calibration pass: distances and cross-moments of the cached maps at every near pair.

Memory is a ring of the last `window` maps, whatever the number of calls; any schedule whose groups fit the
window, and its cache correction, follow from the result without another pass.
Legend: T call, D distance in calls, N batch, C channel.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from cq.core.artifacts import TrajectoryStatistics
from cq.core.denoise import DenoiseStep
from cq.core.phases import Phases, all_sites, sites_at
from cq.core.precision import at_least_float32
from cq.core.values import Batch, Count, Within

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """num_samples trajectories in batches of batch_size; groups up to 2 * max_interval - 1 calls are covered."""

    num_samples: Count
    batch_size: Batch
    max_interval: Annotated[int, Within(1, 1000, "20")]

    def __post_init__(self) -> None:
        for key in ("num_samples", "batch_size", "max_interval"):
            if getattr(self, key) < 1:
                raise ValueError(f"calibrate.{key}={getattr(self, key)}: must be at least 1.")

    def lighter(self, step: str) -> "Calibrate | None":
        """With half the batch; None at a batch of one."""
        batch = min(self.batch_size, self.num_samples)
        return None if batch == 1 else replace(self, batch_size=batch // 2)

    @property
    def window(self) -> int:
        return 2 * self.max_interval - 1

    @property
    def num_batches(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def reduce(self, x_NCX: Tensor) -> Tensor:
        """What is kept of a map for comparing it with others: all of it."""
        return x_NCX


def whole(x_NCX: Tensor) -> Tensor:
    """A map as it is."""
    return x_NCX


def collect_statistics(
    batches: Iterable[Iterable[DenoiseStep]],
    *,
    phases: Phases,
    noise_scheduler: Any,
    window: int,
    reduce: Callable[[Tensor], Tensor] = whole,
) -> TrajectoryStatistics:
    """Consume full-precision trajectories (every call a refresh) and sum over all of them.

    batches: one denoising loop a batch. Sums are float64 and additive, so batches may come in any order.
    phases: the sites to look at; distances of a call sum over the sites of its phase. reduce: what is kept of a map.
    """
    num_calls = len(noise_scheduler.timesteps)
    parts = (batch_sums(s, phases=phases, num_calls=num_calls, window=window, reduce=reduce) for s in batches)
    return merged_statistics(parts, phases=phases, noise_scheduler=noise_scheduler)


def batch_sums(
    steps: Iterable[DenoiseStep],
    *,
    phases: Phases,
    num_calls: int,
    window: int,
    reduce: Callable[[Tensor], Tensor] = whole,
    offload: bool = False,
) -> dict[str, Tensor]:
    """The sums of one batch, "<site>/<name>" to float64 tensors (count: int64): what a shard holds.

    Maps of 16 bits are compared in float32. offload: the ring lies in the CPU's memory wherever the network runs.
    """
    window = min(window, num_calls - 1)
    sums = {site: _SiteSums(num_calls, window) for site in all_sites(phases)}
    rings: dict[str, list[Tensor]] = {site: [] for site in sums}
    for step in steps:
        counted = sites_at(phases, step.call)
        for site, own in sums.items():
            new = reduce(step.output.features[site])
            own.add(step.call, new, rings[site], counted=site in counted)
            if offload:
                new = new.cpu()
            rings[site] = [*rings[site][-(window - 1) :], new] if window > 1 else [new][:window]
    return {f"{site}/{name}": tensor for site, own in sums.items() for name, tensor in own.tensors().items()}


def merged_statistics(
    parts: Iterable[Mapping[str, Tensor]], *, phases: Phases, noise_scheduler: Any
) -> TrajectoryStatistics:
    """Statistics of all batches from the sums of each, added in the order in which they come.

    Floating-point sums depend on their order. Whoever made the parts, the same parts in the same order give the same
    bits; batches of other sizes are other parts, and agree to float64's rounding.
    """
    timesteps = noise_scheduler.timesteps
    num_calls = len(timesteps)
    sites = all_sites(phases)
    totals: dict[str, Tensor] = {}
    for part in parts:
        for name, tensor in part.items():
            site, _, kind = name.rpartition("/")
            total = kind if kind in ("l1_TD", "size_T") else name  # distances sum over sites, too
            totals[total] = totals[total] + tensor if total in totals else tensor
    assert totals, "calibration needs at least one batch"
    l1 = totals["l1_TD"].clone()
    squared = torch.zeros_like(l1)
    of = {name: {site: totals[f"{site}/{name}"] for site in sites} for name in ("sum_TC", "square_TC", "cross_TDC")}
    for site in sites:
        counts_T1 = torch.tensor([site in sites_at(phases, call) for call in range(num_calls)])[:, None]
        pairs_TD = _squared_distances(of["square_TC"][site], of["cross_TDC"][site])
        squared += torch.where(counts_T1, pairs_TD, 0.0)
    for distance in range(1, l1.shape[1]):
        l1[:distance, distance] = squared[:distance, distance] = torch.inf
    return TrajectoryStatistics(
        num_calls=num_calls,
        phases=phases,
        count={site: int(totals[f"{site}/count"]) for site in sites},
        l1_TD=l1,
        squared_TD=squared,
        size_T=totals["size_T"],
        sum_TC=of["sum_TC"],
        square_TC=of["square_TC"],
        cross_TDC=of["cross_TDC"],
        timesteps_T=timesteps.long().clone(),
        sigma_T=noise_levels(noise_scheduler),
    )


def noise_levels(noise_scheduler: Any) -> Tensor:
    """float64 [T]: sqrt((1 - alpha_bar) / alpha_bar) at each call.

    Of a solver with whole timesteps that of the timestep, which levels of Karras or Lu lie beside.
    """
    timesteps: Tensor = noise_scheduler.timesteps
    if timesteps.is_floating_point():  # of a solver that steps along such levels
        levels: Tensor = noise_scheduler.sigmas[: len(timesteps)].double()
        return levels
    alphas = noise_scheduler.alphas_cumprod.double()[timesteps]
    sigmas: Tensor = ((1 - alphas) / alphas).sqrt()
    return sigmas


class _SiteSums:
    """The sums of one site over one batch, on the CPU."""

    def __init__(self, num_calls: int, window: int) -> None:
        self._shape = (num_calls, window + 1)
        self._l1_TD = torch.zeros(self._shape, dtype=torch.float64)
        self._size_T = torch.zeros(num_calls, dtype=torch.float64)
        self._sum_TC = self._square_TC = self._cross_TDC = torch.empty(0)
        self._count = 0

    def add(self, call: int, new: Tensor, ring: list[Tensor], *, counted: bool) -> None:
        """Add the map of `call`, beside each map of the ring (the newest is last).

        counted: whether the site is one of those whose distances count at this call.
        """
        if not self._count:
            num_calls, width = self._shape
            self._count = new.numel() // new.shape[1]
            self._sum_TC = torch.zeros(num_calls, new.shape[1], dtype=torch.float64)
            self._square_TC = torch.zeros_like(self._sum_TC)
            self._cross_TDC = torch.zeros(num_calls, width, new.shape[1], dtype=torch.float64)
        new = at_least_float32(new)
        exact = new.double()
        rest = [0, *range(2, new.ndim)]
        self._sum_TC[call] = exact.sum(rest)
        self._square_TC[call] = exact.square().sum(rest)
        self._cross_TDC[call, 0] = self._square_TC[call]
        for distance, held in enumerate(reversed(ring), start=1):
            old = at_least_float32(held.to(new.device))
            if counted:
                self._l1_TD[call, distance] = (new - old).abs_().sum(dtype=torch.float64)
            self._cross_TDC[call, distance] = (exact * old).sum(rest)
        if counted:
            self._size_T[call] = new.abs().sum(dtype=torch.float64)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "l1_TD": self._l1_TD, "size_T": self._size_T, "sum_TC": self._sum_TC, "square_TC": self._square_TC,
            "cross_TDC": self._cross_TDC, "count": torch.tensor(self._count),
        }  # fmt: skip


def _squared_distances(square_TC: Tensor, cross_TDC: Tensor) -> Tensor:
    """float64 [T, D], zero where t - d < 0."""
    out = torch.zeros(cross_TDC.shape[:2], dtype=torch.float64)
    for distance in range(1, cross_TDC.shape[1]):
        pair = square_TC[distance:] + square_TC[:-distance] - 2 * cross_TDC[distance:, distance]
        out[distance:, distance] = pair.sum(1).clamp(min=0)
    return out
