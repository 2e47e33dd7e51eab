"""The order of the stages: calibrate, schedule, correct, quantize, correct, sample, evaluate, record."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.artifacts import (
    CacheSchedule,
    ChannelAffine,
    QuantParams,
    SampleSet,
    TrajectoryStatistics,
    digest_of_tensor,
)
from cq.calibrate.moments import PairMoments
from cq.calibrate.trajectory import collect_statistics
from cq.components import Components
from cq.contracts import Corrector, PlanRequest
from cq.correct.fit import r_squared
from cq.correct.from_statistics import identity_at_refresh, moments_for_schedule
from cq.denoise import DenoiseStep, denoise
from cq.evaluate.efficiency import counted_cost
from cq.evaluate.latency import Timing
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.models.denoiser import UNetDenoiser
from cq.models.latent import DiffusionModel
from cq.quantize.entry_moments import entry_moments
from cq.sample.generate import generate
from cq.seeding import image_seeds, initial_noise

log = logging.getLogger(__name__)


class Run:
    """One configuration, stage by stage. Every stage is a method that loads or makes one artefact."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts
        self.store = parts.store
        self.num_calls = parts.model.num_calls(parts.sample.num_steps)
        self.every_call = CacheSchedule(
            num_calls=self.num_calls, refresh_calls=tuple(range(self.num_calls)), planner="none", interval=None
        )
        self.no_correction = ChannelAffine(schedule="", tables={}, r2={})
        self._origin = {
            "model": _json(parts.model), "weights": parts.model.weights_digest(),
            "num_steps": parts.sample.num_steps, "run_seed": parts.run_seed,
        }  # fmt: skip

    @cached_property
    def model(self) -> DiffusionModel:
        """Loaded at the first stage that computes something: a stored artefact is read, or refused, without it."""
        with self.store.timed("load"):
            return self.parts.model.load()

    def statistics(self) -> TrajectoryStatistics:
        """Distances and moments of the cut-point map along full-precision trajectories."""
        calibrate = self.parts.calibrate

        def make(_: Path) -> TrajectoryStatistics:
            batches = self._batches(
                self.model.denoiser, calibrate.num_samples, calibrate.batch_size, self.every_call, self.no_correction
            )
            return collect_statistics(
                batches, site=self.model.denoiser.site,
                noise_scheduler=self.model.noise_scheduler(self.parts.sample.num_steps), window=calibrate.window,
            )  # fmt: skip

        key = {**self._origin, "calibrate": _json(calibrate)}
        return self.store.get("statistics", key, TrajectoryStatistics, make)

    def schedule(self) -> CacheSchedule:
        """When the map is refreshed."""
        request = PlanRequest(num_calls=self.num_calls, cost=self.parts.cost, statistics=self.statistics)
        key = {
            **self._origin, "planner": _json(self.parts.planner), "cost": _json(self.parts.cost),
            "calibrate": _json(self.parts.calibrate),
        }  # fmt: skip
        return self.store.get("schedule", key, CacheSchedule, lambda _: self.parts.planner.plan(request))

    def cache_correction(self, schedule: CacheSchedule) -> ChannelAffine:
        """Gain and offset of the stale map, per call and channel."""

        def make(_: Path) -> ChannelAffine:
            site = self.model.denoiser.site
            return _fit(
                self.parts.correct_cache, schedule, {site: lambda: moments_for_schedule(self.statistics(), schedule)},
                biases={site: None}, identity_at_full=True,
            )  # fmt: skip

        key = {
            **self._origin, "corrector": _json(self.parts.correct_cache), "schedule": schedule.digest,
            "calibrate": _json(self.parts.calibrate),
        }  # fmt: skip
        return self.store.get("cache_correction", key, ChannelAffine, make)

    def quant_params(self, schedule: CacheSchedule, correction: ChannelAffine) -> QuantParams:
        """Scales and zero points."""
        key = {
            **self._origin, "quantizer": _json(self.parts.quantizer), "schedule": schedule.digest,
            "correction": correction.digest,
        }  # fmt: skip
        trajectories = self._lockstep(schedule, correction)
        return self.store.get(
            "quant_params", key, QuantParams,
            lambda _: self.parts.quantizer.calibrate(self.model.denoiser, trajectories, num_calls=self.num_calls),
        )  # fmt: skip

    def quant_correction(
        self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams
    ) -> ChannelAffine:
        """Gain and offset of what the quantized entry layers make of the cached half."""
        quantizer = self.parts.quantizer

        def make(_: Path) -> ChannelAffine:
            denoiser = self.model.denoiser
            layers = quantizer.entry_layers(denoiser)
            gathered: dict[str, PairMoments] = {}

            def moments(name: str) -> PairMoments:
                if not gathered:
                    twin = quantizer.quantize(denoiser, params, self.no_correction)
                    gathered.update(
                        entry_moments(
                            denoiser, twin, layers, self._lockstep(schedule, correction), num_calls=self.num_calls
                        )
                    )
                return gathered[name]

            biases = {name: denoiser.network.unet.get_submodule(name).bias for name in layers}
            return _fit(
                self.parts.correct_quant, schedule, {name: _bind(moments, name) for name in layers},
                biases=biases, identity_at_full=False,
            )  # fmt: skip

        key = {
            **self._origin, "corrector": _json(self.parts.correct_quant), "schedule": schedule.digest,
            "correction": correction.digest, "params": params.digest, "quantizer": _json(quantizer),
        }  # fmt: skip
        return self.store.get("quant_correction", key, ChannelAffine, make)

    def samples(
        self, denoiser: Callable[[], UNetDenoiser], schedule: CacheSchedule, correction: ChannelAffine, *,
        twin: Mapping[str, Any], stage: str = "samples",
    ) -> SampleSet:  # fmt: skip
        """Images of the evaluation seeds. twin: what, beside the model, determines the denoiser."""
        sample = self.parts.sample
        seeds = image_seeds("evaluation", run_seed=self.parts.run_seed, count=sample.num_images)
        key = {
            **self._origin, "sample": _json(sample), "schedule": list(schedule.refresh_calls),
            "correction": correction.digest if correction.tables else "", "twin": dict(twin),
        }  # fmt: skip
        return self.store.get(
            stage, key, SampleSet,
            lambda shards: generate(
                self.model, denoiser(), sample=sample, seeds=seeds, schedule=schedule, correction=correction,
                shards=shards, describe=stage,
            ),
        )  # fmt: skip

    def baseline(self) -> SampleSet:
        """The full-precision, uncached images of the same seeds."""
        return self.samples(
            lambda: self.model.denoiser, self.every_call, self.no_correction, twin={}, stage="samples_full_precision"
        )

    def timing(self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams) -> Timing:
        """Measured time of what is really executed; empty for fake quantization, which is never timed."""
        key = {
            **self._origin, "latency": _json(self.parts.latency), "schedule": list(schedule.refresh_calls),
            "correction": correction.digest if correction.tables else "", "fake": bool(params.bits),
        }  # fmt: skip
        runs = {
            "this": lambda n: self._loop(self.model.denoiser, self._calibration_seeds(n), schedule, correction),
            "full": lambda n: self._loop(
                self.model.denoiser, self._calibration_seeds(n), self.every_call, self.no_correction
            ),
        }
        return self.store.get(
            "timing", key, Timing, lambda _: self.parts.latency.measure(runs if not params.bits else {})
        )

    def counted(self, schedule: CacheSchedule, params: QuantParams) -> dict[str, float]:
        """MACs, BOPs and weight bytes."""
        context = self.model.condition(torch.zeros(1, dtype=torch.int64))
        return counted_cost(
            self.model.denoiser.network, latent_shape=self.parts.model.latent_shape,
            context=None if context is None else context[:1], schedule=schedule, coverage=params.coverage,
        )  # fmt: skip

    def _calibration_seeds(self, count: int) -> tuple[int, ...]:
        return image_seeds("calibration", run_seed=self.parts.run_seed, count=count)

    def _loop(
        self, denoiser: UNetDenoiser, seeds: tuple[int, ...], schedule: CacheSchedule, correction: ChannelAffine
    ) -> Iterator[DenoiseStep]:
        classes = self.parts.model.num_classes
        labels = torch.tensor([seed % max(classes, 1) for seed in seeds])
        return denoise(
            denoiser, self.model.noise_scheduler(self.parts.sample.num_steps),
            initial_noise(seeds, self.parts.model.latent_shape), cond=self.model.condition(labels),
            schedule=schedule, correction=correction,
        )  # fmt: skip

    def _batches(
        self, denoiser: UNetDenoiser, num_samples: int, batch_size: int, schedule: CacheSchedule,
        correction: ChannelAffine,
    ) -> list[Iterator[DenoiseStep]]:  # fmt: skip
        seeds = self._calibration_seeds(num_samples)
        parts = [seeds[start : start + batch_size] for start in range(0, num_samples, batch_size)]
        return [self._loop(denoiser, part, schedule, correction) for part in parts]

    def _lockstep(self, schedule: CacheSchedule, correction: ChannelAffine) -> Callable[..., Iterator[int]]:
        quantizer = self.parts.quantizer

        def run(denoiser: UNetDenoiser, *, deployed: bool) -> Iterator[int]:
            chosen = (schedule, correction) if deployed else (self.every_call, self.no_correction)
            batches = self._batches(denoiser, quantizer.num_samples, quantizer.batch_size, *chosen)
            for steps in zip(*batches, strict=True):
                yield steps[0].call

        return run


def run(parts: Components) -> "RunOutcome":
    """Run one configuration end to end and return what it made (its record is not yet written)."""
    this = Run(parts)
    schedule = this.schedule()
    correction = this.cache_correction(schedule)
    params = this.quant_params(schedule, correction)
    output = this.quant_correction(schedule, correction, params)
    twin = {"params": params.digest, "output": output.digest} if params.bits else {}
    baseline = this.baseline()
    if not twin and len(schedule.refresh_calls) == this.num_calls:
        samples = baseline  # nothing is cached and nothing quantized: these are the same images
    else:
        samples = this.samples(
            lambda: parts.quantizer.quantize(this.model.denoiser, params, output), schedule, correction, twin=twin
        )
    timing = this.timing(schedule, correction, params)
    context = EvaluationContext(samples=samples, baseline=baseline, sampling=_sampling_protocol(parts))
    scores: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, metric in parts.metrics.items():
        try:
            scores |= {key: score.as_json() for key, score in metric.compute(context).items()}
        except MetricUnavailable as error:
            missing[name] = str(error)
            log.warning("%s not computed: %s", name, error)
    return RunOutcome(
        schedule=schedule, correction=correction, output=output, params=params, samples=samples, baseline=baseline,
        scores=scores, missing=missing, counted=this.counted(schedule, params),
        measured=timing.summary(), seconds=dict(parts.store.seconds), digests=dict(parts.store.digests),
        weights_digest=parts.model.weights_digest(), images_digest=digest_of_tensor(samples.images_NCHW),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything a run made; `cq.ledger` turns it into a RunRecord."""

    schedule: CacheSchedule
    correction: ChannelAffine
    output: ChannelAffine
    params: QuantParams
    samples: SampleSet
    baseline: SampleSet
    scores: Mapping[str, Any]
    missing: Mapping[str, str]
    counted: Mapping[str, float]
    measured: Mapping[str, Any] | None
    seconds: Mapping[str, float]
    digests: Mapping[str, str]
    weights_digest: str
    images_digest: str


def _fit(
    corrector: Corrector, schedule: CacheSchedule, moments: Mapping[str, Callable[[], PairMoments]], *,
    biases: Mapping[str, Tensor | None], identity_at_full: bool,
) -> ChannelAffine:  # fmt: skip
    tables: dict[str, Tensor] = {}
    r2: dict[str, Tensor] = {}
    for name, gather in moments.items():
        fitted = corrector.fit(gather, bias_C=biases[name])
        if fitted is None:
            continue
        gain_TC, offset_TC = identity_at_refresh(*fitted, schedule) if identity_at_full else fitted
        r2[name] = r_squared(gather(), gain_TC, offset_TC).float()
        tables[name] = torch.stack([gain_TC, offset_TC], dim=1).float()
    return ChannelAffine(schedule=schedule.digest if tables else "", tables=tables, r2=r2)


def _bind(function: Callable[[str], PairMoments], name: str) -> Callable[[], PairMoments]:
    return lambda: function(name)


def _sampling_protocol(parts: Components) -> dict[str, Any]:
    return {
        "model": parts.model.weights, "weights": parts.model.weights_digest()[:12],
        "guidance": parts.model.guidance, "eta": 0.0, "steps": parts.sample.num_steps,
        "classes": parts.sample.labels if parts.sample.classes is None else f"{parts.sample.labels} of "
        f"{list(parts.sample.classes)}", "pixel_rounding": "round to nearest, uint8",
    }  # fmt: skip


def _json(component: Any) -> dict[str, Any]:
    """A component as JSON: its class and fields, nested components included."""
    out: dict[str, Any] = {"class": f"{type(component).__module__}.{type(component).__qualname__}"}
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        out[field.name] = _json(value) if dataclasses.is_dataclass(value) else value
    if hasattr(component, "content_digest"):  # a component that reads a file is what the file says
        out["content"] = component.content_digest()
    return out
