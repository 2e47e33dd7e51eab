"""What a metric returns, and what it may look at."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cq.core.artifacts import SampleSet
from cq.core.checksum import fingerprint_of
from cq.evaluate.features import FeatureCache


class MetricUnavailable(ValueError):  # noqa: N818 - the number is missing, nothing went wrong
    """The metric needs something that is not on this machine; the message says what, and where it goes.

    found: the scores that could be computed all the same.
    """

    def __init__(self, message: str, found: "Mapping[str, Score] | None" = None) -> None:
        super().__init__(message)
        self.found: Mapping[str, Score] = found or {}


class NoBaselineError(ValueError):
    """There are no full-precision images to compare with."""


CURVE_DIGITS = 6  # that a record keeps of a curve, which is drawn; all would be half of the record


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number with its interval and everything that must be equal before two of them are compared.

    low, high: 95 % interval over images; None where none was computed. better: the good direction.
    protocol: JSON. curve: for scores that are also known call by call, one value a call of the denoiser.
    """

    value: float
    low: float | None
    high: float | None
    better: Literal["up", "down"]
    protocol: Mapping[str, Any]
    curve: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for number in (self.value, self.low, self.high, *self.curve):
            if number is not None and not math.isfinite(number):
                raise ValueError(
                    f"{self.protocol.get('metric')}: {number} is not a finite number and cannot be reported. "
                    "Look at the images: the sampler has most likely diverged."
                )

    @property
    def fingerprint(self) -> str:
        """Names the protocol: scores share a column only where it is equal."""
        return fingerprint_of(self.protocol)

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "better": self.better,
            "curve": [float(f"{value:.{CURVE_DIGITS}g}") for value in self.curve],
            "protocol": dict(self.protocol),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """One sample set, and what it is compared with.

    baseline: the full-precision, uncached images of the same seeds; None where there are none.
    sampling: the part of the protocol the sampler knows: model, guidance, eta, steps, classes ('balanced' or
        'drawn'), pixel rounding. Seeds stay out of it: the report averages over them.
    same_calls: whether the baseline's loop made the calls of the samples', with the same solver: only then is there an
        error by call. solver: the baseline's, named in the protocol of paired metrics; empty for DDIM.
    captions: what each image was drawn from, in order; empty where the model is not conditioned on text.
    cache: give the contexts of several runs the same one to extract a shared baseline once.
    """

    samples: SampleSet
    baseline: SampleSet | None
    sampling: Mapping[str, Any]
    captions: tuple[str, ...] = ()
    same_calls: bool = True
    solver: str = ""
    cache: FeatureCache = field(default_factory=FeatureCache, repr=False, compare=False)

    def protocol(self, metric: str, details: Mapping[str, Any]) -> dict[str, Any]:
        """The sampling part, the count of images, and what the metric adds."""
        own = {"metric": metric, "num_images": len(self.samples.images_NCHW), **details}
        if twice := sorted(own.keys() & self.sampling.keys()):
            raise ValueError(f"sampling protocol names {twice}, which {metric} sets itself. Rename those keys.")
        return {**self.sampling, **own}

    def pairs(self) -> tuple[SampleSet, SampleSet]:
        """Samples and baseline, row i of both drawn from seed i. Raises ValueError where they do not match.

        NoBaselineError where there is no baseline. Where they were drawn in other calls, their traces differ in length
        and are no pairs; all else is compared.
        """
        samples, baseline = self.samples, self.baseline
        remedy = "Sample the full-precision, uncached model with the same seeds, classes and steps first."
        if baseline is None:
            raise NoBaselineError(f"baseline=None: paired metrics compare with the full-precision images. {remedy}")
        if samples.seeds != baseline.seeds:
            row = next(
                (i for i, (a, b) in enumerate(zip(samples.seeds, baseline.seeds, strict=False)) if a != b),
                min(len(samples.seeds), len(baseline.seeds)),
            )
            raise ValueError(
                f"baseline.seeds differ from samples.seeds from row {row} on ({len(baseline.seeds)} and "
                f"{len(samples.seeds)} images): pairs must share the seed. {remedy}"
            )
        for name in ("images_NCHW", "latents_NCHW", *(("trace_TNCHW",) if self.same_calls else ())):
            ours, theirs = getattr(samples, name).shape, getattr(baseline, name).shape
            if ours != theirs:
                raise ValueError(f"baseline.{name} has shape {list(theirs)}, samples {list(ours)}. {remedy}")
        if not samples.labels_N.equal(baseline.labels_N):
            raise ValueError(f"baseline.labels_N differ from samples.labels_N: pairs must share the class. {remedy}")
        return samples, baseline
