"""The parts of one run, built and checked; a configuration that cannot work is refused before torch is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cq.core.store import Store, check_writable
from cq.run.building import build, check_targets, component_named
from cq.run.config import check_budget, check_compute, check_places, check_row, check_top, place
from cq.run.objective import Objective, objectives_of
from cq.run.preflight import (
    check_cost,
    check_files,
    check_layers,
    check_metrics,
    check_names,
    check_protocol,
    check_reach,
    check_sampler,
    check_seeds,
    check_sizes,
    check_solver,
    check_strategy,
    check_weight_bits,
)
from cq.run.tracking import Logger

if TYPE_CHECKING:  # these bring torch
    from cq.calibrate.trajectory import Calibrate
    from cq.core.contracts import (
        CacheStrategy,
        Corrector,
        Cost,
        Engine,
        FitsAlongTrajectories,
        Metric,
        Predictor,
        Quantizer,
        Sampler,
        SchedulePlanner,
    )
    from cq.evaluate.latency import Latency
    from cq.evaluate.paper_protocol import NoProtocol
    from cq.models.diffusion import ModelComponent
    from cq.sample.generate import Sample


@dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of one run; nothing has been loaded or computed yet.

    baseline_steps, baseline_sampler: how the full-precision images are drawn that this run is compared with.
    dtype, compile, precision: how the network computes. max_memory: GiB a process may use.
    offload: whether calibration keeps its maps in the CPU's memory.
    """

    model: "ModelComponent"
    sampler: "Sampler"
    baseline_steps: int
    baseline_sampler: "Sampler"
    strategy: "CacheStrategy"
    predictor: "Predictor"
    calibrate: "Calibrate"
    cost: "Cost"
    planner: "SchedulePlanner"
    correct_cache: "Corrector"
    correct_quant: "Corrector"
    correct_output: "Corrector | FitsAlongTrajectories"
    quantizer: "Quantizer"
    engine: "Engine"
    sample: "Sample"
    metrics: Mapping[str, "Metric"]
    protocol: "NoProtocol"
    latency: "Latency"
    store: Store
    logger: Logger
    run_seed: int
    dtype: str = "float32"
    compile: bool = False
    precision: str = "highest"
    max_memory: float | None = None
    offload: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether an uncached, unquantized run draws the baseline's very images."""
        return self.baseline_steps == self.sample.num_steps and self.baseline_sampler == self.sampler

    @property
    def quantized(self) -> bool:
        """Whether anything will be computed with fewer bits."""
        return self.quantizer.num_samples > 0

    @property
    def is_own_engine(self) -> bool:
        """Whether the engine executes full precision, too."""
        from cq.core.contracts import ExecutesFullPrecision

        return isinstance(self.engine, ExecutesFullPrecision)

    @property
    def simulated(self) -> bool:
        """Whether bits will only be simulated, which shows their quality and is never timed."""
        from cq.core.acceleration import low_bits

        return self.quantized and not self.engine.real(low_bits())

    def objectives(self, keys: Sequence[str]) -> tuple[Objective, ...]:
        """See `objectives_of`."""
        return objectives_of(keys, self.metrics, simulated=self.simulated, timed=self.latency.repeats > 0)

    @property
    def disk_bytes(self) -> int:
        """About what the run writes."""
        calls = self.sampler.num_calls(self.sample.num_steps)
        return _disk_bytes(self.model, self.sample, calls + self.baseline_sampler.num_calls(self.baseline_steps))

    @staticmethod
    def of(
        config: DictConfig, *, model: "ModelComponent | None" = None, sampler: "Sampler | None" = None
    ) -> "Components":
        """Build every part of `config`; ValueError for the first thing that cannot work.

        model, sampler: in the place of those that it names, where no configuration could (a network in memory).

        What needs no torch comes first: torch alone takes longer to import than all of the checks before it.
        """
        from cq.core import contracts
        from cq.evaluate.paper_protocol import NoProtocol
        from cq.models.diffusion import ModelComponent, ReadsPrompts
        from cq.sample.generate import Sample

        check_top(config)
        check_targets(config)
        check_row(config)
        check_budget(config)
        check_compute(config)
        check_places(config)
        protocol: NoProtocol = build(config.protocol, "protocol", NoProtocol)
        kind = component_named(config.model.get("_target_"), "model")
        protocol.check_choices(model=kind, metrics=config.metrics)
        model = model or build(config.model, "model", ModelComponent)
        planner: SchedulePlanner = build(config.schedule, "schedule", contracts.SchedulePlanner)
        sample: Sample = build(config.sample, "sample", Sample)
        baseline_sampler = sampler or build(config.baseline.sampler, "baseline.sampler", contracts.Sampler)
        sampler = sampler or build(config.sampler, "sampler", contracts.Sampler)
        strategy: CacheStrategy = build(config.cache, "cache", contracts.CacheStrategy)
        model.check()
        budget = {value: f"budget.{key}" for key, value in reversed(config.budget.items()) if key.endswith("_steps")}
        own_steps = budget.get(sample.num_steps, "sample.num_steps")
        check_sampler(sampler, sample.num_steps, model, own_steps)
        check_sampler(baseline_sampler, config.baseline.num_steps, model, "baseline.num_steps")
        num_calls = sampler.num_calls(sample.num_steps)
        check_strategy(strategy, model, num_calls=num_calls)
        planner.check(num_calls)
        sample.check(model.num_classes)
        check_seeds(config.seed, {"sample.num_images": sample.num_images})
        check_protocol(
            protocol, model=model, sample=sample, sampler=baseline_sampler, num_steps=config.baseline.num_steps
        )
        logger: Logger = build(config.logger, "logger", Logger)
        needed = _disk_bytes(model, sample, num_calls + baseline_sampler.num_calls(config.baseline.num_steps))
        check_writable(place(config, "store"), "paths.store", needed)
        check_writable(place(config, "records").parent, "paths.records")
        check_writable(place(config, "tracking"), "paths.tracking")
        from cq.calibrate.trajectory import Calibrate
        from cq.evaluate.latency import Latency

        parts = Components(
            model=model,
            sampler=sampler,
            baseline_steps=config.baseline.num_steps,
            baseline_sampler=baseline_sampler,
            strategy=strategy,
            predictor=build(config.predict, "predict", contracts.Predictor),
            calibrate=build(config.calibrate, "calibrate", Calibrate),
            cost=build(config.cost, "cost", contracts.Cost),
            planner=planner,
            correct_cache=build(config.correct.cache, "correct.cache", contracts.Corrector),
            correct_quant=build(config.correct.quant, "correct.quant", contracts.Corrector),
            correct_output=build(
                config.correct.output, "correct.output", contracts.Corrector | contracts.FitsAlongTrajectories
            ),
            quantizer=build(config.quantize, "quantize", contracts.Quantizer),
            engine=build(config.engine, "engine", contracts.Engine),
            sample=sample,
            metrics={name: build(node, f"metrics.{name}", contracts.Metric) for name, node in config.metrics.items()},
            protocol=protocol,
            latency=build(config.latency, "latency", Latency),
            store=Store(place(config, "store")),
            logger=logger,
            run_seed=config.seed,
            dtype=config.compute.dtype,
            compile=config.compute.compile,
            precision=config.compute.precision,
            max_memory=config.budget.max_memory,
        )
        check_layers(parts.quantizer, model)
        parts.engine.check(quantized=parts.quantized)
        if parts.quantized:
            check_weight_bits(parts.quantizer, parts.engine)
        check_cost(parts.cost, parts.planner, model)
        check_solver(parts.planner, parts.sampler, parts.sample.num_steps, model)
        check_reach(
            parts.planner, parts.correct_cache, parts.predictor, calibrate=parts.calibrate, cost=parts.cost,
            num_calls=num_calls,
        )  # fmt: skip
        check_seeds(
            parts.run_seed,
            {
                "calibrate.num_samples": parts.calibrate.num_samples,
                "quantize.num_samples": parts.quantizer.num_samples, "latency.batch_size": parts.latency.batch_size,
            },
        )  # fmt: skip
        # Last, what opens files and networks of the judges.
        check_files(parts.metrics)
        check_sizes(parts.metrics, model.image_shape)
        drawn = contracts.Drawn(
            num_images=sample.num_images, shape=model.image_shape, captioned=isinstance(model, ReadsPrompts)
        )
        check_names(parts.metrics)
        check_metrics(parts.metrics, drawn)
        for name, metric in parts.metrics.items():
            protocol.check_metric(f"metrics.{name}", metric)
        parts.objectives(config.objective)
        return parts


def _disk_bytes(model: "ModelComponent", sample: "Sample", calls_traced: int) -> int:
    latent, image = math.prod(model.latent_shape), math.prod(model.image_shape)
    trace = min(sample.trace, sample.num_images) * latent * 2 * calls_traced  # 4 bytes, a mean of both sets
    return 4 * (sample.num_images * (image + 4 * latent) + trace) + 2**24
