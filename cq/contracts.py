"""What each kind of part must provide; everything else about it is its own business.

Legend of shape suffixes: N batch (guided models: [unconditional; conditional], 2N), C channel, H W space,
T call of the denoiser in sampling order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from cq.artifacts import CacheSchedule, ChannelAffine, QuantParams, TrajectoryStatistics
from cq.calibrate.moments import PairMoments


@dataclass(frozen=True)
class DenoiserOutput:
    """eps_NCHW: the guided noise prediction. features: freshly computed maps by site (none on a reuse call)."""

    eps_NCHW: Tensor
    features: Mapping[str, Tensor]


@runtime_checkable
class Denoiser(Protocol):
    """A network as a function of its arguments: no state survives a call.

    Law: feeding back the features of the same call reproduces the same eps bit for bit.
    """

    @property
    def site(self) -> str:
        """The named place whose map can be reused."""

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        """Predict the noise in `x_NCHW`; what feeds the sites in `reuse` is not computed."""


@runtime_checkable
class Cost(Protocol):
    """What it costs to stand at call t with the map of call t - d."""

    def distances(self, statistics: TrajectoryStatistics) -> Tensor:
        """float64 [T, D]; column 0 is zero, +inf where t - d < 0."""


@dataclass(frozen=True)
class PlanRequest:
    """What a planner may look at. `statistics` is computed on first use."""

    num_calls: int
    cost: Cost
    statistics: "LazyStatistics"


class LazyStatistics(Protocol):
    """Runs, or loads, the calibration pass when it is called."""

    def __call__(self) -> TrajectoryStatistics: ...


@runtime_checkable
class SchedulePlanner(Protocol):
    """Decides when the cached map is refreshed."""

    def check(self, num_calls: int) -> None:
        """Raise ValueError, before anything expensive, where no schedule of `num_calls` calls can exist."""

    def plan(self, request: PlanRequest) -> CacheSchedule:
        """The schedule; a pure function of the request."""


class LazyMoments(Protocol):
    """Gathers moments, at the price of a pass over trajectories, when it is called."""

    def __call__(self) -> PairMoments: ...


@runtime_checkable
class Corrector(Protocol):
    """Fits what stands in for a stale or quantized value."""

    def fit(self, gather: LazyMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Gain and offset, float64 [T, C] each, with target ~= gain * source + offset; None for the identity.

        gather: the moments to fit, computed when it is called and not before.
        bias_C: the bias of the layer whose outputs are fitted, which the moments leave out; None for maps.
        """


class LockstepTrajectories(Protocol):
    """The denoising loop over all batches of a sample set, one call of every batch before the next call."""

    def __call__(self, denoiser: Any, *, deployed: bool) -> Iterator[int]:
        """Run and yield each finished call. deployed: on the cached, corrected path; else every call is full."""


@runtime_checkable
class Quantizer(Protocol):
    """Decides with how many bits the denoiser computes, and makes the twin that does."""

    num_samples: int
    batch_size: int

    def calibrate(self, denoiser: Any, trajectories: LockstepTrajectories, *, num_calls: int) -> QuantParams:
        """Every scale and zero point, from full-precision trajectories."""

    def quantize(self, denoiser: Any, params: QuantParams, correction: ChannelAffine) -> Any:
        """The quantized denoiser; the given one is left untouched."""

    def entry_layers(self, denoiser: Any) -> list[str]:
        """Names of the layers that read the cached map and whose output can be corrected."""


@runtime_checkable
class Metric(Protocol):
    """Scores a sample set. `context` holds the reference images, features and the paired full-precision set."""

    def compute(self, context: Any) -> Mapping[str, Any]:
        """Metric name to a `Score` (value, interval, protocol)."""
