"""The scores of a run's images, and what else is said of them: counted cost, measured time, captions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule, QuantParams, SampleSet
from cq.core.contracts import HoldsImages, ReadsContent
from cq.evaluate.efficiency import counted_cost
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.models.diffusion import PIXELS, ReadsPrompts
from cq.quantize.ptq import PTQ
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import METRIC_IMAGE_SECONDS, METRIC_SECONDS, CallBytes, CallSeconds
from cq.run.objective import COUNTED, costs_of
from cq.sampler.ddim import DDIM

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """found: by metric, as a record holds them. missing: why a metric is not there, or not in full."""

    found: Mapping[str, Any]
    missing: Mapping[str, str]


class Evaluation:
    """The last step of a run, which makes no artefact of its own."""

    name = "evaluation"
    batch_of = ""
    decided_by: tuple[str, ...] = ()
    needed = True

    def __init__(self, run: Run) -> None:
        self.run = run
        self.parts = run.parts

    def scores(self, samples: SampleSet, baseline: SampleSet) -> Scores:
        """Every metric of the configuration; what cannot be computed here is missing, and said."""
        context = EvaluationContext(
            samples=samples, baseline=baseline, sampling=_sampling_protocol(self.parts),
            captions=self.run.model.captions(samples.labels_N) if isinstance(self.parts.model, ReadsPrompts) else (),
            same_calls=self.parts.is_baseline, solver=_solver(self.parts),
        )  # fmt: skip
        scores: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for name, metric in self.parts.metrics.items():
            try:
                found = metric.compute(context)
            except MetricUnavailable as error:
                missing[name], found = str(error), error.found
                log.warning("%s not computed%s: %s", name, " in full" if error.found else "", error)
            new = {key: score.as_json() for key, score in found.items() if key not in scores}
            if twice := [key for key in found if key not in new]:  # `check_names` knows those that are told beforehand
                missing[name] = f"{', '.join(twice)}: another metric of this run has a score of this name."
                log.warning("%s: %s", name, missing[name])
            self.run.live.scores(new)
            scores |= new
        return Scores(found=scores, missing=missing)

    def counted(self, acceleration: Acceleration) -> dict[str, float]:
        """MACs, BOPs and weight bytes."""
        model = self.run.model
        cond = model.condition(torch.zeros(1, dtype=torch.int64, device=model.device))
        return counted_cost(
            model.denoiser.network, latent_shape=self.parts.model.latent_shape,
            cond=None if cond is None else cond[:1], schedule=acceleration.schedule, sites=model.denoiser.sites,
            coverage=acceleration.params.coverage,
        )  # fmt: skip

    def seconds(self, calls: CallSeconds) -> float:
        """About how long all metrics take."""
        return len(self.parts.metrics) * (METRIC_SECONDS + METRIC_IMAGE_SECONDS * self.parts.sample.num_images)

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        """See `Stage.held_bytes`."""
        if not found.on_cpu:
            return {}
        holding = [metric for metric in self.parts.metrics.values() if isinstance(metric, HoldsImages)]
        twin = found.weights if self.parts.quantized else 0
        at_once = [metric.held_bytes(self.parts.model.image_shape) for metric in holding]
        return {self.name: twin + self.run.set_bytes + max(at_once)} if at_once else {}


def check_limit(parts: Components, limit: Mapping[str, float | None]) -> None:
    """Raise ValueError where the run will cost more than `limit` allows: counted on its network, nothing is sampled."""
    limits = {key: most for key in COUNTED if (most := limit.get(key)) is not None}
    if not limits:
        return
    full_calls = parts.baseline_sampler.num_calls(parts.baseline_steps)
    expected = costs_of(_expected(parts), full_calls=full_calls)
    for key, most in limits.items():
        if expected[key] > most:
            raise ValueError(
                f"limit.{key}={most:g}: this run will count about {expected[key]:.4g}. Raise the limit, or lengthen "
                "budget.cache_interval, lower the bits or take fewer steps."
            )


def _expected(parts: Components) -> Mapping[str, float]:
    """What `Evaluation.counted` will say of a run, from its network alone: as many refreshes as its planner expects."""
    run = Run(parts)
    refreshes, ranges = run.expected_refreshes, parts.quantizer.ranges
    schedule = CacheSchedule(
        num_calls=run.num_calls, refresh_calls=tuple(i * run.num_calls // refreshes for i in range(refreshes)),
        planner="expected", interval=None, phases=run.phases,
    )  # fmt: skip
    coverage = ranges.coverage(run.model.denoiser) if isinstance(ranges, PTQ) else ()
    params = QuantParams(tensors={}, bits={}, coverage=coverage)
    return Evaluation(run).counted(Acceleration(schedule=schedule, params=params))


def _solver(parts: Components) -> str:
    """The baseline's solver; empty for DDIM, which was the only one when the first protocols were recorded."""
    return "" if parts.baseline_sampler == DDIM() else repr(parts.baseline_sampler)


def _sampling_protocol(parts: Components) -> dict[str, Any]:
    stated = parts.protocol.stated()
    if stated and isinstance(parts.model, ReadsContent):  # prompts decide images as the weights do
        stated["prompts"] = parts.model.content_digest()[:12]
    return {
        "model": parts.model.weights, "weights": parts.model.weights_digest()[:12],
        "guidance": parts.model.guidance, "eta": 0.0, "steps": parts.baseline_steps,
        "classes": parts.sample.labels if parts.sample.classes is None else f"{parts.sample.labels} of "
        f"{list(parts.sample.classes)}", "pixel_rounding": PIXELS, **stated,
    }  # fmt: skip
