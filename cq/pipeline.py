"""The order of the stages: calibrate, schedule, correct, quantize, correct, sample, evaluate, record."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cq.artifacts import (
    CacheSchedule,
    ChannelAffine,
    QuantParams,
    SampleSet,
    TrajectoryStatistics,
    digest_of_tensor,
)
from cq.calibrate.loops import NO_CORRECTION, Loops
from cq.calibrate.moments import PairMoments
from cq.calibrate.predicted import predicted_moments
from cq.calibrate.trajectory import collect_statistics
from cq.components import Components, described
from cq.contracts import Denoiser, PlanRequest
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.tables import fit_tables, lazily
from cq.evaluate.efficiency import counted_cost
from cq.evaluate.latency import Timing
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.models.corrected import NOISE, corrected
from cq.models.diffusion import PIXELS, DiffusionModel
from cq.outcome import RunOutcome
from cq.phases import Phases, all_sites
from cq.predict.last import Last
from cq.quantize.entry_moments import entry_moments
from cq.quantize.output_moments import output_moments
from cq.sample.generate import generate
from cq.sampler.ddim import DDIM
from cq.seeding import image_seeds

log = logging.getLogger(__name__)


class Run:
    """One configuration, stage by stage. Every stage is a method that loads or makes one artefact."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts
        self.store = parts.store
        self.num_calls = parts.sampler.num_calls(parts.sample.num_steps)
        self._origin = {
            "model": described(parts.model), "weights": parts.model.weights_digest(),
            "num_steps": parts.sample.num_steps, "run_seed": parts.run_seed, "sampler": described(parts.sampler),
        }  # fmt: skip

    @cached_property
    def model(self) -> DiffusionModel:
        """Loaded at the first stage that computes something: a stored artefact is read, or refused, without it."""
        with self.store.timed("load"):
            model = self.parts.model.load()
            own = self.parts.model.site
            phases = self.parts.strategy.phases(
                default=own, blocks=model.denoiser.network.blocks, num_calls=self.num_calls
            )
            denoiser = model.denoiser.with_sites(all_sites(phases))
            return dataclasses.replace(model, denoiser=denoiser, sampler=self.parts.sampler)

    @property
    def phases(self) -> Phases:
        """Which sites are reused when."""
        return self.parts.strategy.phases(
            default=self.parts.model.site, blocks=self.model.denoiser.network.blocks, num_calls=self.num_calls
        )

    def statistics(self) -> TrajectoryStatistics:
        """Distances and moments of the cut-point map along full-precision trajectories."""
        calibrate = self.parts.calibrate

        def make(_: Path) -> TrajectoryStatistics:
            batches = self.loops.full(self.model.denoiser, calibrate.num_samples, calibrate.batch_size)
            return collect_statistics(
                batches, phases=self.phases,
                noise_scheduler=self.model.noise_scheduler(self.parts.sample.num_steps), window=calibrate.window,
                reduce=calibrate.reduce,
            )  # fmt: skip

        key = {**self._origin, "strategy": described(self.parts.strategy), "calibrate": described(calibrate)}
        return self.store.get("statistics", key, TrajectoryStatistics, make)

    def schedule(self) -> CacheSchedule:
        """When the map is refreshed."""
        request = PlanRequest(num_calls=self.num_calls, cost=self.parts.cost, statistics=self.statistics)
        key = {
            **self._origin, "planner": described(self.parts.planner), "cost": described(self.parts.cost),
            "strategy": described(self.parts.strategy), "calibrate": described(self.parts.calibrate),
        }  # fmt: skip
        return self.store.get(
            "schedule", key, CacheSchedule,
            lambda _: dataclasses.replace(self.parts.planner.plan(request), phases=self.phases),
        )  # fmt: skip

    def cache_correction(self, schedule: CacheSchedule) -> ChannelAffine:
        """Gain and offset of the stale map, per call and channel."""

        def gather() -> Mapping[str, PairMoments]:
            sites = self.model.denoiser.sites
            if isinstance(self.parts.predictor, Last):
                return {site: moments_for_schedule(self.statistics(), schedule, site) for site in sites}
            calibrate = self.parts.calibrate
            batches = self.loops.full(self.model.denoiser, calibrate.num_samples, calibrate.batch_size)
            return predicted_moments(batches, schedule=schedule, predictor=self.parts.predictor, sites=sites)

        def make(_: Path) -> ChannelAffine:
            sites = self.model.denoiser.sites
            return fit_tables(
                self.parts.correct_cache, schedule, lazily(sites, gather), biases=dict.fromkeys(sites),
                identity_at_full=True,
            )  # fmt: skip

        key = {
            **self._origin, "corrector": described(self.parts.correct_cache), "schedule": schedule.digest,
            "predictor": described(self.parts.predictor),
            "calibrate": described(self.parts.calibrate),
        }  # fmt: skip
        return self.store.get("cache_correction", key, ChannelAffine, make)

    def quant_params(self, schedule: CacheSchedule, correction: ChannelAffine) -> QuantParams:
        """Scales and zero points."""
        key = {
            **self._origin, "quantizer": described(self.parts.quantizer), "schedule": schedule.digest,
            "correction": correction.digest, "predictor": described(self.parts.predictor),
        }  # fmt: skip

        def make(shards: Path) -> QuantParams:
            trajectories = self._lockstep(schedule, correction)
            return self.parts.quantizer.calibrate(
                self.model.denoiser, trajectories, num_calls=self.num_calls, shards=shards
            )

        return self.store.get("quant_params", key, QuantParams, make)

    def quant_correction(
        self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams
    ) -> ChannelAffine:
        """Gain and offset of what the quantized entry layers make of the cached half."""
        quantizer = self.parts.quantizer

        def make(_: Path) -> ChannelAffine:
            denoiser = self.model.denoiser
            layers = quantizer.entry_layers(denoiser)

            def gather() -> Mapping[str, PairMoments]:
                twin = quantizer.quantize(denoiser, params, NO_CORRECTION)
                return entry_moments(
                    denoiser, twin, layers, self._lockstep(schedule, correction), num_calls=self.num_calls,
                    may_rest=len(schedule.phases) > 1,
                )  # fmt: skip

            biases = {name: denoiser.network.backbone.get_submodule(name).bias for name in layers}
            return fit_tables(
                self.parts.correct_quant, schedule, lazily(layers, gather), biases=biases, identity_at_full=False
            )

        key = {
            **self._origin, "corrector": described(self.parts.correct_quant), "schedule": schedule.digest,
            "correction": correction.digest, "params": params.digest, "quantizer": described(quantizer),
        }  # fmt: skip
        return self.store.get("quant_correction", key, ChannelAffine, make)

    def output_correction(
        self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams, output: ChannelAffine
    ) -> ChannelAffine:
        """Gain and offset of the quantized network's noise prediction; nothing where nothing is quantized."""

        def make(_: Path) -> ChannelAffine:
            names = (NOISE,) if params.bits else ()

            def gather() -> Mapping[str, PairMoments]:
                twin = self.parts.quantizer.quantize(self.model.denoiser, params, output)
                lockstep = self._lockstep(schedule, correction)
                return {NOISE: output_moments(self.model.denoiser, twin, lockstep, num_calls=self.num_calls)}

            return fit_tables(
                self.parts.correct_output, schedule, lazily(names, gather), biases=dict.fromkeys(names),
                identity_at_full=False,
            )  # fmt: skip

        key = {
            **self._origin, "corrector": described(self.parts.correct_output), "schedule": schedule.digest,
            "correction": correction.digest, "params": params.digest, "quantizer": described(self.parts.quantizer),
            "output": output.digest,
        }  # fmt: skip
        return self.store.get("output_correction", key, ChannelAffine, make)

    def samples(
        self, denoiser: Callable[[], Denoiser], schedule: CacheSchedule, correction: ChannelAffine, *,
        twin: Mapping[str, Any],
    ) -> SampleSet:  # fmt: skip
        """Images of the evaluation seeds. twin: what, beside the model, determines the denoiser."""
        key = {
            **self._origin, "sample": described(self.parts.sample), "twin": dict(twin),
            **self._reuse(schedule, correction),
        }  # fmt: skip
        return self.store.get(
            "samples", key, SampleSet,
            lambda shards: generate(
                self.model, denoiser(), sample=self.parts.sample, seeds=self._evaluation_seeds(), schedule=schedule,
                correction=correction, predictor=self.parts.predictor, shards=shards, describe="samples",
            ),
        )  # fmt: skip

    def baseline(self) -> SampleSet:
        """The full-precision, uncached images of the same seeds, with the baseline's own solver and steps."""
        parts = self.parts
        sample = dataclasses.replace(parts.sample, num_steps=parts.baseline_steps)
        num_calls = parts.baseline_sampler.num_calls(parts.baseline_steps)
        every = CacheSchedule(num_calls=num_calls, refresh_calls=tuple(range(num_calls)), planner="none", interval=None)
        key = {
            **self._origin, "num_steps": parts.baseline_steps, "sampler": described(parts.baseline_sampler),
            "sample": described(sample),
        }  # fmt: skip
        return self.store.get(
            "samples_full_precision", key, SampleSet,
            lambda shards: generate(
                dataclasses.replace(self.model, sampler=parts.baseline_sampler), self.model.denoiser, sample=sample,
                seeds=self._evaluation_seeds(), schedule=every, correction=NO_CORRECTION,
                predictor=parts.predictor, shards=shards, describe="samples_full_precision",
            ),
        )  # fmt: skip

    def timing(self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams) -> Timing:
        """Measured time of what is really executed; empty for fake quantization, which is never timed."""
        key = {
            **self._origin, "latency": described(self.parts.latency), **self._reuse(schedule, correction),
            "fake": bool(params.bits), "baseline_steps": self.parts.baseline_steps,
            "baseline_sampler": described(self.parts.baseline_sampler),
        }  # fmt: skip
        runs = {
            "this": lambda n: self.loops.one(self.model.denoiser, self.loops.seeds(n), schedule, correction),
            "full": lambda n: self._baseline_loops().full(self.model.denoiser, n, n)[0],
        }
        return self.store.get(
            "timing", key, Timing, lambda _: self.parts.latency.measure(runs if not params.bits else {})
        )

    def counted(self, schedule: CacheSchedule, params: QuantParams) -> dict[str, float]:
        """MACs, BOPs and weight bytes."""
        cond = self.model.condition(torch.zeros(1, dtype=torch.int64))
        return counted_cost(
            self.model.denoiser.network, latent_shape=self.parts.model.latent_shape,
            cond=None if cond is None else cond[:1], schedule=schedule, sites=self.model.denoiser.sites,
            coverage=params.coverage,
        )  # fmt: skip

    def captions(self, samples: SampleSet) -> tuple[str, ...]:
        """The prompt of each image; empty for models that take none."""
        return self.model.captions(samples.labels_N) if hasattr(self.parts.model, "prompts") else ()

    def _reuse(self, schedule: CacheSchedule, correction: ChannelAffine) -> dict[str, Any]:
        """What decides, beside the networks, what a loop computes; where nothing is reused, only the calls."""
        calls = list(schedule.refresh_calls)
        if len(calls) == schedule.num_calls:
            return {"schedule": calls}
        return {
            "schedule": calls, "phases": json.loads(json.dumps(schedule.phases)),
            "correction": correction.digest if correction.tables else "", "predictor": described(self.parts.predictor),
        }  # fmt: skip

    def _evaluation_seeds(self) -> tuple[int, ...]:
        return image_seeds("evaluation", run_seed=self.parts.run_seed, count=self.parts.sample.num_images)

    @property
    def loops(self) -> Loops:
        """The loops of calibration."""
        parts = self.parts
        return Loops(
            model=self.model, num_steps=parts.sample.num_steps, predictor=parts.predictor, run_seed=parts.run_seed
        )

    def _baseline_loops(self) -> Loops:
        model = dataclasses.replace(self.model, sampler=self.parts.baseline_sampler)
        return dataclasses.replace(self.loops, model=model, num_steps=self.parts.baseline_steps)

    def _lockstep(self, schedule: CacheSchedule, correction: ChannelAffine) -> Callable[..., Iterator[int]]:
        quantizer = self.parts.quantizer
        return self.loops.lockstep(
            schedule, correction, num_samples=quantizer.num_samples, batch_size=quantizer.batch_size
        )


def run(parts: Components) -> RunOutcome:
    """Run one configuration end to end and return what it made (its record is not yet written)."""
    this = Run(parts)
    schedule = this.schedule()
    correction = this.cache_correction(schedule)
    params = this.quant_params(schedule, correction)
    output = this.quant_correction(schedule, correction, params)
    noise = this.output_correction(schedule, correction, params, output)
    twin = {"params": params.digest, "output": output.digest} if params.bits else {}
    twin |= {"noise": noise.digest} if noise.tables else {}
    baseline = this.baseline()
    if not twin and len(schedule.refresh_calls) == this.num_calls and parts.is_baseline:
        samples = baseline  # nothing is cached and nothing quantized: these are the same images
    else:
        samples = this.samples(
            lambda: corrected(parts.quantizer.quantize(this.model.denoiser, params, output), noise),
            schedule, correction, twin=twin,
        )  # fmt: skip
    timing = this.timing(schedule, correction, params)
    context = EvaluationContext(
        samples=samples, baseline=baseline, sampling=_sampling_protocol(parts),
        captions=this.captions(samples), same_calls=parts.is_baseline, solver=_solver(parts),
    )  # fmt: skip
    scores: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, metric in parts.metrics.items():
        try:
            scores |= {key: score.as_json() for key, score in metric.compute(context).items()}
        except MetricUnavailable as error:
            missing[name] = str(error)
            scores |= {key: score.as_json() for key, score in error.found.items()}
            log.warning("%s not computed%s: %s", name, " in full" if error.found else "", error)
    return RunOutcome(
        schedule=schedule, correction=correction, output=output, params=params, samples=samples, baseline=baseline,
        scores=scores, missing=missing, counted=this.counted(schedule, params),
        measured=timing.summary(), seconds=dict(parts.store.seconds), made=dict(parts.store.made),
        digests=dict(parts.store.digests), weights_digest=parts.model.weights_digest(),
        images_digest=digest_of_tensor(samples.images_NCHW),
    )  # fmt: skip


def _solver(parts: Components) -> str:
    """The baseline's solver; empty for DDIM, which was the only one when the first protocols were recorded."""
    return "" if parts.baseline_sampler == DDIM() else repr(parts.baseline_sampler)


def _sampling_protocol(parts: Components) -> dict[str, Any]:
    stated = parts.protocol.stated()
    if stated and hasattr(parts.model, "content_digest"):  # prompts decide images as the weights do
        stated["prompts"] = parts.model.content_digest()[:12]
    return {
        "model": parts.model.weights, "weights": parts.model.weights_digest()[:12],
        "guidance": parts.model.guidance, "eta": 0.0, "steps": parts.baseline_steps,
        "classes": parts.sample.labels if parts.sample.classes is None else f"{parts.sample.labels} of "
        f"{list(parts.sample.classes)}", "pixel_rounding": PIXELS, **stated,
    }  # fmt: skip
