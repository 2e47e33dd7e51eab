"""The stages of a run: each a method that loads or makes one artefact, with every process of the run at work."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.calibrate.loops import NO_CORRECTION, Loops, every_call
from cq.calibrate.predicted import batch_moments, merged_moments
from cq.calibrate.trajectory import batch_sums, merged_statistics
from cq.core.artifacts import (
    Artifact,
    CacheSchedule,
    ChannelAffine,
    QuantParams,
    SampleSet,
    TrajectoryStatistics,
)
from cq.core.contracts import Denoiser, PlanRequest
from cq.core.moments import PairMoments
from cq.core.phases import Phases, all_sites
from cq.core.processes import arithmetic, device
from cq.core.seeding import image_seeds
from cq.core.shards import present
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.tables import fit_tables, lazily
from cq.evaluate.efficiency import counted_cost
from cq.evaluate.latency import Timing
from cq.models.compiled import compiled
from cq.models.corrected import NOISE
from cq.models.denoiser import GuidedDenoiser
from cq.models.diffusion import DiffusionModel
from cq.models.trial import tried
from cq.predict.last import Last
from cq.quantize.entry_moments import entry_moments
from cq.quantize.output_moments import output_moments
from cq.run.components import Components
from cq.run.identity import described, source_digest
from cq.run.preflight import needs_moments
from cq.sample.generate import Sample, draw, generate
from cq.schedule.none import NoCache

log = logging.getLogger(__name__)


class Run:
    """One configuration, stage by stage."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts
        self.store = parts.store
        self.num_calls = parts.sampler.num_calls(parts.sample.num_steps)
        self.arithmetic = self.store.processes.agreed(arithmetic())
        self._origin = {
            "model": described(parts.model), "weights": parts.model.weights_digest(),
            "num_steps": parts.sample.num_steps, "run_seed": parts.run_seed, "sampler": described(parts.sampler),
            "dtype": parts.dtype, "arithmetic": self.arithmetic, "source": source_digest(__name__),
        }  # fmt: skip

    @cached_property
    def model(self) -> DiffusionModel:
        """Loaded and tried at the first stage that computes: a stored artefact is read, or refused, without it."""
        with self.store.timed("load"):
            model = self.parts.model.load().on(device(), getattr(torch, self.parts.dtype))
            denoiser = model.denoiser.with_sites(all_sites(self.phases))
            model = dataclasses.replace(model, denoiser=denoiser, sampler=self.parts.sampler)
            reused = () if isinstance(self.parts.planner, NoCache) else self.phases
            return tried(model, reused, num_steps=self.parts.sample.num_steps)

    @property
    def phases(self) -> Phases:
        """Which sites are reused when."""
        return self.parts.strategy.phases(
            default=self.parts.model.site, blocks=self.parts.model.blocks, num_calls=self.num_calls
        )

    def statistics(self) -> TrajectoryStatistics:
        """Distances and moments of the cut-point map along full-precision trajectories."""
        calibrate = self.parts.calibrate
        key = {**self._origin, "strategy": described(self.parts.strategy), "calibrate": described(calibrate)}

        def parts(shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
            batches = self.loops.full(self.model.denoiser, calibrate.num_samples, calibrate.batch_size)
            options: dict[str, Any] = {
                "phases": self.phases, "num_calls": self.num_calls, "window": calibrate.window,
                "reduce": calibrate.reduce, "offload": self.parts.offload,
            }  # fmt: skip
            for index in indices:
                path = shards / f"sums_{index:05d}.safetensors"
                yield present(path, partial(batch_sums, batches[index], **options))

        self._share("statistics", key, TrajectoryStatistics, parts, range(calibrate.num_batches))
        return self.store.get(
            "statistics", key, TrajectoryStatistics,
            lambda shards: merged_statistics(
                parts(shards, range(calibrate.num_batches)), phases=self.phases,
                noise_scheduler=self.model.noise_scheduler(self.parts.sample.num_steps),
            ),
        )  # fmt: skip

    def schedule(self) -> CacheSchedule:
        """When the map is refreshed."""
        request = PlanRequest(num_calls=self.num_calls, cost=self.parts.cost, statistics=self.statistics)
        key = {
            **self._origin, "planner": described(self.parts.planner), "cost": described(self.parts.cost),
            "strategy": described(self.parts.strategy), "calibrate": described(self.parts.calibrate),
        }  # fmt: skip
        self.store.share("schedule", key, CacheSchedule, lambda _: self.parts.planner.plan(request))
        return self.store.get(
            "schedule", key, CacheSchedule,
            lambda _: dataclasses.replace(self.parts.planner.plan(request), phases=self.phases),
        )  # fmt: skip

    def cache_correction(self, schedule: CacheSchedule) -> ChannelAffine:
        """Gain and offset of the stale map, per call and channel."""

        calibrate, plain = self.parts.calibrate, isinstance(self.parts.predictor, Last)
        key = {
            **self._origin, "corrector": described(self.parts.correct_cache), "schedule": schedule.identity,
            "predictor": described(self.parts.predictor), "calibrate": described(calibrate),
        }  # fmt: skip

        def parts(shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
            batches = self.loops.full(self.model.denoiser, calibrate.num_samples, calibrate.batch_size)
            options: dict[str, Any] = {
                "schedule": schedule, "predictor": self.parts.predictor, "sites": self.model.denoiser.sites,
            }  # fmt: skip
            for index in indices:
                path = shards / f"moments_{index:05d}.safetensors"
                yield present(path, partial(batch_moments, batches[index], **options))

        def gather(shards: Path) -> Mapping[str, PairMoments]:
            sites = self.model.denoiser.sites
            if plain:
                return {site: moments_for_schedule(self.statistics(), schedule, site) for site in sites}
            return merged_moments(parts(shards, range(calibrate.num_batches)), sites)

        def make(shards: Path) -> ChannelAffine:
            sites = self.model.denoiser.sites
            return fit_tables(
                self.parts.correct_cache, schedule, lazily(sites, lambda: gather(shards)),
                biases=dict.fromkeys(sites), identity_at_full=True,
            )  # fmt: skip

        if needs_moments(self.parts.correct_cache):
            if plain:
                self.store.share("cache_correction", key, ChannelAffine, lambda _: self.statistics())
            else:
                self._share("cache_correction", key, ChannelAffine, parts, range(calibrate.num_batches))
        return self.store.get("cache_correction", key, ChannelAffine, make)

    def quant_params(self, schedule: CacheSchedule, correction: ChannelAffine) -> QuantParams:
        """Scales and zero points."""
        key = {
            **self._origin, "quantizer": described(self.parts.quantizer), "schedule": schedule.identity,
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
            **self._origin, "corrector": described(self.parts.correct_quant), "schedule": schedule.identity,
            "correction": correction.digest, "params": params.digest, "quantizer": described(quantizer),
            "predictor": described(self.parts.predictor),
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
            **self._origin, "corrector": described(self.parts.correct_output), "schedule": schedule.identity,
            "correction": correction.digest, "params": params.digest, "quantizer": described(self.parts.quantizer),
            "output": output.digest, "predictor": described(self.parts.predictor),
        }  # fmt: skip
        return self.store.get("output_correction", key, ChannelAffine, make)

    def samples(
        self, denoiser: Callable[[], Denoiser], schedule: CacheSchedule, correction: ChannelAffine, *,
        twin: Mapping[str, Any],
    ) -> Callable[[], SampleSet]:  # fmt: skip
        """Images of the evaluation seeds. twin: what, beside the model, determines the denoiser.

        All processes draw them; what is returned puts them together, and is for the main process.
        """
        key = {
            **self._origin, "sample": described(self.parts.sample), "twin": dict(twin),
            **self._reuse(schedule, correction), **self._compiled(twin),
        }  # fmt: skip
        return self._drawn("samples", key, lambda: self.model, denoiser, self.parts.sample, schedule, correction)

    def baseline(self) -> Callable[[], SampleSet]:
        """The full-precision, uncached images of the same seeds, with the baseline's own solver and steps."""
        parts = self.parts
        sample = dataclasses.replace(parts.sample, num_steps=parts.baseline_steps)
        every = every_call(parts.baseline_sampler.num_calls(parts.baseline_steps))
        key = {
            **self._origin, "num_steps": parts.baseline_steps, "sampler": described(parts.baseline_sampler),
            "sample": described(sample), **self._compiled({}),
        }  # fmt: skip
        return self._drawn(
            "samples_full_precision", key, lambda: dataclasses.replace(self.model, sampler=parts.baseline_sampler),
            lambda: self.plain, sample, every, NO_CORRECTION,
        )  # fmt: skip

    @cached_property
    def plain(self) -> GuidedDenoiser:
        """The full-precision denoiser as it samples."""
        return compiled(self.model.denoiser) if self.parts.compile else self.model.denoiser

    def _drawn(
        self, stage: str, key: Mapping[str, Any], model: Callable[[], DiffusionModel],
        denoiser: Callable[[], Denoiser], sample: Sample, schedule: CacheSchedule, correction: ChannelAffine,
    ) -> Callable[[], SampleSet]:  # fmt: skip
        options: dict[str, Any] = {
            "sample": sample, "seeds": self._evaluation_seeds(), "schedule": schedule, "correction": correction,
            "predictor": self.parts.predictor, "describe": stage,
        }  # fmt: skip
        self._share(
            stage, key, SampleSet,
            lambda shards, starts: draw(model(), denoiser(), starts=starts, shards=shards, **options),
            sample.starts(self._evaluation_seeds()),
        )  # fmt: skip
        return lambda: self.store.get(
            stage, key, SampleSet, lambda shards: generate(model(), denoiser(), shards=shards, **options)
        )

    def _share(
        self, stage: str, key: Mapping[str, Any], kind: type[Artifact],
        parts: Callable[[Path, Sequence[int]], Iterable[object]], items: Sequence[int],
    ) -> None:  # fmt: skip
        """Let every process make those of the parts that are its own."""

        def work(shards: Path) -> None:
            for _ in parts(shards, self.store.processes.share_of(items)):
                pass

        self.store.share(stage, key, kind, work)

    def _compiled(self, twin: Mapping[str, Any]) -> dict[str, Any]:
        """What a compiler's other rounding adds to a key; fake-quantized networks are never compiled."""
        return {"compile": True} if self.parts.compile and not twin else {}

    def timing(self, schedule: CacheSchedule, correction: ChannelAffine, params: QuantParams) -> Timing:
        """Measured time of what is really executed; empty for fake quantization, which is never timed."""
        key = {
            **self._origin, "latency": described(self.parts.latency), **self._reuse(schedule, correction),
            "fake": bool(params.bits), "baseline_steps": self.parts.baseline_steps,
            "baseline_sampler": described(self.parts.baseline_sampler), **self._compiled({}),
        }  # fmt: skip
        runs = {
            "this": lambda n: self.loops.one(self.plain, self.loops.seeds(n), schedule, correction),
            "full": lambda n: self._baseline_loops().full(self.plain, n, n)[0],
        }
        return self.store.get(
            "timing", key, Timing, lambda _: self.parts.latency.measure(runs if not params.bits else {})
        )

    def counted(self, schedule: CacheSchedule, params: QuantParams) -> dict[str, float]:
        """MACs, BOPs and weight bytes."""
        cond = self.model.condition(torch.zeros(1, dtype=torch.int64, device=self.model.device))
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
