"""What each kind of part must provide; everything else about it is its own business.

Legend of shape suffixes: N batch (guided models: [unconditional; conditional], 2N), C channel, H W space,
T call of the denoiser in sampling order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from cq.core.planning import Cost as Cost
from cq.core.planning import PlanRequest as PlanRequest
from cq.core.planning import ReadsStatistics as ReadsStatistics
from cq.core.planning import SchedulePlanner as SchedulePlanner

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from pathlib import Path

    import torch
    from torch import Tensor
    from typing_extensions import Self

    from cq.core.acceleration import Acceleration
    from cq.core.artifacts import QuantParams
    from cq.core.denoiser import Denoiser, GuidedDenoiser
    from cq.core.moments import PairMoments
    from cq.core.phases import Phases


@runtime_checkable
class CacheStrategy(Protocol):
    """Decides what is cached: which sites stand in for computation, and at which calls."""

    families: ClassVar[tuple[str, ...]]

    def phases(self, *, default: str, blocks: int, num_calls: int) -> Phases:
        """(first call, the sites reused from there on) of each phase; every refresh records the sites of all.

        default: the model's own cut point. blocks: its transformer blocks, 0 for a U-Net.
        """


@runtime_checkable
class Predictor(Protocol):
    """Estimates a map from those of the last refreshes."""

    @property
    def depth(self) -> int:
        """How many refreshes it looks back on."""

    def weights(self, call: int, refreshes: tuple[int, ...]) -> tuple[float, ...]:
        """The weight of each refresh's map at `call`; refreshes: the last `depth` or fewer, newest first."""


class Stepped(Protocol):
    """What a step of a diffusers scheduler returns, as far as the loop reads it."""

    @property
    def prev_sample(self) -> Tensor: ...


class NoiseScheduler(Protocol):
    """A diffusers noise scheduler with its timesteps set, as the loop uses it."""

    @property
    def timesteps(self) -> Tensor: ...
    @property
    def init_noise_sigma(self) -> float | Tensor: ...
    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...
    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> Stepped: ...


@runtime_checkable
class Sampler(Protocol):
    """The solver of the reverse process, as a diffusers noise scheduler.

    stored: a model's scheduler_config.json, which `cq.sampler.stored` reads.
    """

    def check(self, num_steps: int, stored: Mapping[str, Any]) -> None:
        """Raise ValueError for a stored noise schedule it cannot solve, or a number of steps it cannot take on it."""

    def num_calls(self, num_steps: int) -> int:
        """Denoiser calls of one trajectory."""

    def noise_scheduler(self, stored: Mapping[str, Any], num_steps: int) -> NoiseScheduler:
        """A fresh noise scheduler of a model's stored one, with its timesteps set; one loop uses one.

        Its `init_noise_sigma` and `scale_model_input` are applied by the loop.
        """


@runtime_checkable
class ReadsNoiseLevels(Protocol):
    """What a cost adds that means something for some noise schedules only."""

    def check_noise(self, stored: Mapping[str, Any]) -> None:
        """Raise ValueError for the scheduler_config.json of a model that it cannot be used with."""


@runtime_checkable
class Corrector(Protocol):
    """Fits what stands in for a stale or quantized value."""

    @property
    def corrects(self) -> bool:
        """Whether there is anything to fit; no moments are gathered for one that says no."""

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and offset, float64 [T, C] each, with target ~= gain * source + offset.

        moments: sums of source, target, their squares and product, [T, C], over `count` values a channel; means are
        sums over count. bias_C: of the layer whose outputs are fitted, which the moments leave out; None for maps.
        """


@runtime_checkable
class FitsAlongTrajectories(Protocol):
    """A corrector of the noise prediction that follows deployed trajectories instead: see `cq.correct.along`.

    terms: what it adds to the prediction: state, held_noise, held_state (both of the last refresh), earlier_noise (of
    the one before). num_samples, batch_size: trajectories it is fitted on, in all and at once.
    """

    @property
    def corrects(self) -> bool: ...
    @property
    def terms(self) -> tuple[str, ...]: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    def solve(self, gram_CKK: Tensor, cross_CK: Tensor) -> Tensor:
        """Weights float64 [C, K] of one call: of the prediction, its terms, and 1. At the first calls nothing is held.

        gram_CKK, cross_CK: float64 sums over images and space of products of these, and with the target.
        """


class LockstepTrajectories(Protocol):
    """The denoising loop over all batches of a sample set, one call of every batch before the next call."""

    def __call__(self, denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
        """Run and yield each finished call. deployed: on the cached, corrected path; else every call is full."""


@runtime_checkable
class Quantizer(Protocol):
    """Decides with how many bits the denoiser computes; engines make the twin that does."""

    @property
    def num_samples(self) -> int:
        """Trajectories it calibrates on."""

    @property
    def batch_size(self) -> int:
        """How many of them at once."""

    @property
    def ranges(self) -> Quantizer:
        """The part of it that chooses ranges, which is timed for estimates: itself, where that is all it does."""

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        """Every scale and zero point, from full-precision trajectories.

        shards: a folder for what is finished of a long calibration; it survives a kill, and the next attempt gets it.
        """

    def lighter(self, step: str) -> Self | None:
        """The same in less memory, where `step` (of `Learns`, or quant_params) takes too much; None at the least."""


@runtime_checkable
class Learns(Protocol):
    """What a quantizer adds that trains part after part of the network, after choosing ranges."""

    def held_bytes(self, *, state: int, unit: int, units: int, call: int, columns: int, device: torch.device) -> int:
        """Peak bytes beside the networks and a batch of their calls.

        state: bytes of a state with the maps it reuses. unit: of what goes into and comes out of the largest part in
        one image's call. units: of what all parts return. call: the peak of one image's call. columns: weights of one
        output of the layer with most of them.
        """

    def image_calls(self, num_units: int, *, rows: int, returned: int, device: torch.device) -> float:
        """About how many fake-quantized full calls of one image learning costs, beside choosing ranges.

        rows: of one image in the network's batch, two where guided. returned: bytes of what all parts return for one.
        """


@runtime_checkable
class Engine(Protocol):
    """Executes an Acceleration: makes of a full-precision denoiser the one that computes as it says."""

    def check(self, *, quantized: bool) -> None:
        """Raise ValueError, before anything expensive, for what it cannot execute, or not on this machine."""

    def real(self, acceleration: Acceleration) -> bool:
        """Whether what `lower` returns is what a deployment would run, so that its wall clock means something."""

    def lower(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> Denoiser:
        """The denoiser with the acceleration's bits and corrections of quantized layers and of the prediction.

        The one that is given stays as it is. The cache is the loop's business (`cq.core.denoise`).
        """


@runtime_checkable
class ExecutesFullPrecision(Protocol):
    """What an engine adds that executes what has no bits, too; for the others `cq.engine.plain` does, and so once."""

    full_precision: ClassVar[bool]


@runtime_checkable
class MultipliesIntegers(Protocol):
    """What an engine adds that multiplies codes of weights, so that a quantizer with more bits is refused."""

    @property
    def exact_weight_bits(self) -> int:
        """Of a weight that this machine multiplies exactly."""


@runtime_checkable
class NamesLayers(Protocol):
    """What a quantizer whose configuration names layers adds, so that a wrong name is refused before anything runs."""

    def check_layers(self, names: frozenset[str]) -> None:
        """Raise ValueError for a name or pattern that no layer has. names: all layers, and perhaps some embeddings."""


@runtime_checkable
class Metric(Protocol):
    """Scores a sample set. One that cannot score every set, or needs what may be missing, is also a `ChecksImages`."""

    def compute(self, context: Any) -> Mapping[str, Any]:
        """Metric name to a `Score`; context is an `EvaluationContext`. MetricUnavailable where something is missing."""


Better = Mapping[str, Literal["up", "down"]]


@runtime_checkable
class NamesScores(Protocol):
    """What a metric adds whose scores a search may aim at."""

    @property
    def better(self) -> Better:
        """Each score that `compute` returns where nothing is missing, and which way is good."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is known of images before they are drawn. shape: [C, H, W]. captioned: whether each has a caption."""

    num_images: int
    shape: tuple[int, int, int]
    captioned: bool


@runtime_checkable
class ChecksImages(Protocol):
    """What such a metric adds, so that it is refused before the images are drawn."""

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images that have no score; MetricUnavailable where something is not on this machine.

        What is only known when the images are scored passes.
        """


@runtime_checkable
class NeedsSize(Protocol):
    """What a metric that cannot score every size of image adds, so that one is refused before it is drawn."""

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError where images of so many pixels have no score."""


@runtime_checkable
class HoldsImages(Protocol):
    """What a metric adds whose memory counts beside the images themselves."""

    def held_bytes(self, shape: tuple[int, ...]) -> int:
        """Its peak for images [C, H, W]."""


@runtime_checkable
class ReadsFiles(Protocol):
    """What a metric that compares with a file adds, so that one it cannot use is refused before images are drawn."""

    def check_files(self) -> None:
        """Raise ValueError for a file that is there and cannot serve; let pass one that is missing."""


@runtime_checkable
class ReadsContent(Protocol):
    """What a component adds that knows what it reads of the files that it names, so that only that counts."""

    def content_digest(self) -> str:
        """SHA-256 over what decides its numbers in those files."""
