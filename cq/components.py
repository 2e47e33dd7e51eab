"""The parts of one run, built and checked; a configuration that cannot work is refused before torch is loaded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cq.config import build, check_budget
from cq.store import Store, check_writable

if TYPE_CHECKING:  # these bring torch
    from cq.calibrate.trajectory import Calibrate
    from cq.contracts import Corrector, Cost, Metric, Quantizer, SchedulePlanner
    from cq.evaluate.latency import Latency
    from cq.models.latent import LatentDiffusion
    from cq.sample.generate import Sample
    from cq.tracking import NoLogger, WandbLogger


@dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of one run; nothing has been loaded or computed yet."""

    model: "LatentDiffusion"
    calibrate: "Calibrate"
    cost: "Cost"
    planner: "SchedulePlanner"
    correct_cache: "Corrector"
    correct_quant: "Corrector"
    quantizer: "Quantizer"
    sample: "Sample"
    metrics: Mapping[str, "Metric"]
    latency: "Latency"
    store: Store
    logger: "NoLogger | WandbLogger"
    run_seed: int

    @staticmethod
    def of(config: DictConfig) -> "Components":
        """Build every part of `config`; ValueError for the first thing that cannot work.

        What needs no torch comes first: torch alone takes longer to import than all of the checks before it.
        """
        check_budget(config)
        model: LatentDiffusion = build(config.model, "model")
        planner: SchedulePlanner = build(config.schedule, "schedule")
        sample: Sample = build(config.sample, "sample")
        model.check(num_steps=sample.num_steps)
        planner.check(model.num_calls(sample.num_steps))
        sample.check(model.num_classes)
        logger: NoLogger | WandbLogger = build(config.logger, "logger")
        latent, image = math.prod(model.latent_shape), math.prod(model.image_shape)
        trace = sample.trace * latent * 4 * sample.num_steps
        needed = 4 * (sample.num_images * (image + 4 * latent) + trace) + 2**24
        records = Path(config.paths.records)
        if records.is_dir():
            raise ValueError(f"paths.records={records}: is a folder. Name a file in it: {records / 'records.jsonl'}.")
        check_writable(Path(config.paths.store), "paths.store", needed)
        check_writable(records.parent, "paths.records")
        check_writable(Path(config.paths.tracking), "paths.tracking")
        parts = Components(
            model=model,
            calibrate=build(config.calibrate, "calibrate"),
            cost=build(config.cost, "cost"),
            planner=planner,
            correct_cache=build(config.correct.cache, "correct.cache"),
            correct_quant=build(config.correct.quant, "correct.quant"),
            quantizer=build(config.quantize, "quantize"),
            sample=sample,
            metrics={name: build(node, f"metrics.{name}") for name, node in config.metrics.items()},
            latency=build(config.latency, "latency"),
            store=Store(Path(config.paths.store)),
            logger=logger,
            run_seed=config.seed,
        )
        from cq.seeding import image_seeds

        image_seeds("evaluation", run_seed=parts.run_seed, count=sample.num_images)
        image_seeds("calibration", run_seed=parts.run_seed, count=parts.calibrate.num_samples)
        return parts
