"""What two parts of a run demand of each other, refused in seconds instead of after a calibration pass."""

import inspect
import re
from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from cq.schedule.members import members

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.calibrate.trajectory import Calibrate
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import (
        CacheStrategy,
        Corrector,
        Cost,
        Drawn,
        Engine,
        Metric,
        Predictor,
        Quantizer,
        Sampler,
        SchedulePlanner,
    )
    from cq.evaluate.paper_protocol import NoProtocol
    from cq.models.diffusion import ModelComponent
    from cq.sample.generate import Sample


def check_sampler(sampler: "Sampler", num_steps: int, model: "ModelComponent", key: str) -> None:
    """Raise ValueError, under `key`, for a number of steps that the sampler cannot take with the model.

    Also for a sampler that was written when samplers did not ask what is stored.
    """
    for call in ("check(num_steps, stored)", "noise_scheduler(stored, num_steps)", "num_calls(num_steps)"):
        method: Any = getattr(sampler, call.partition("(")[0], None)
        try:
            inspect.signature(method).bind(*call.split(","))
        except TypeError as error:
            raise ValueError(
                f"sampler={type(sampler).__name__}: has no {call}, which every sampler needs: `stored` is the model's "
                "scheduler_config.json. See Sampler in cq.core.contracts, or derive from cq.sampler.stock.StockSolver."
            ) from error
    try:
        sampler.check(num_steps, model.noise)
    except ValueError as error:
        raise ValueError(str(error).replace("budget.num_steps", key)) from error


def check_cost(cost: "Cost", planner: "SchedulePlanner", model: "ModelComponent") -> None:
    """Raise ValueError for a cost that means nothing under the model's noise schedule, where a planner reads it."""
    from cq.core.contracts import ReadsNoiseLevels, ReadsStatistics

    reads = any(isinstance(each, ReadsStatistics) for each in members(planner))
    if not (reads and isinstance(cost, ReadsNoiseLevels)):
        return
    try:
        cost.check_noise(model.noise)
    except ValueError as error:
        raise ValueError(f"cost={type(cost).__name__}: {error}") from error


def check_solver(planner: "SchedulePlanner", sampler: "Sampler", num_steps: int, model: "ModelComponent") -> None:
    """Raise ValueError for a sampler that no sketch can be drawn along, where a planner reads them."""
    from cq.core.planning import ReadsSketches
    from cq.sampler.linear import read_off

    if any(isinstance(each, ReadsSketches) for each in members(planner)):
        read_off(lambda: sampler.noise_scheduler(model.noise, num_steps))


def check_protocol(
    protocol: "NoProtocol", *, model: "ModelComponent", sample: "Sample", sampler: "Sampler", num_steps: int
) -> None:
    """Raise ValueError where the images would not be drawn as the protocol says, or its reference is not at hand.

    sampler, num_steps: the baseline's.
    """
    from cq.models.diffusion import PIXELS, ReadsPrompts

    release = model.release  # of weights of one's own nobody knows what they were trained on
    protocol.check_run(
        {
            "model.image_shape": model.image_shape,
            "model.guidance": model.guidance,
            "model.num_classes": model.num_classes,
            "model.release.data": None if release is None else release.data,
            "sample.num_images": sample.num_images,
            "sample.labels": sample.labels,
            "sample.classes": sample.classes,
            "baseline.num_steps": num_steps,
            "baseline.sampler": type(sampler).__name__,
            "protocol.eta": 0.0,
            "protocol.pixels": PIXELS,
        }
    )
    if protocol.knows_prompts:
        assert isinstance(model, ReadsPrompts)  # see `check_choices`
        protocol.check_prompts(model.read_prompts("evaluation"), named=f"model.prompts={model.prompts!r}")


def check_strategy(strategy: "CacheStrategy", model: "ModelComponent", *, num_calls: int) -> None:
    """Raise ValueError for a cache strategy that the model's family, or its number of blocks, does not allow."""
    if model.family not in strategy.families:
        raise ValueError(
            f"cache={type(strategy).__name__}: works on {' and '.join(strategy.families)} models, and "
            f"model.weights={model.weights!r} is a {model.family}. Choose cache=cut, which every model has."
        )
    strategy.phases(default=model.site, blocks=model.blocks, num_calls=num_calls)


def check_layers(quantizer: "Quantizer", model: "ModelComponent") -> None:
    """Raise ValueError where the quantizer names layers that the model does not have.

    Where the weights are not stored as safetensors the names are known only when the model is loaded.
    """
    from cq.core.contracts import NamesLayers

    if isinstance(quantizer, NamesLayers):
        names = model.layers()
        if names is not None:
            quantizer.check_layers(names)


def check_weight_bits(quantizer: "Quantizer", engine: "Engine") -> None:
    """Raise ValueError for weights of so many bits that the engine would run them in float32 on this machine alone.

    Above the engine's own width there is nothing to refuse: no machine multiplies those in integers.
    """
    from cq.core.contracts import MultipliesIntegers
    from cq.engine.kernels import HELD_BITS

    bits = getattr(quantizer.ranges, "weight_bits", 0)
    if isinstance(engine, MultipliesIntegers) and engine.exact_weight_bits < bits <= HELD_BITS:
        least = engine.exact_weight_bits
        raise ValueError(
            f"budget.weight_bits={bits}: this processor multiplies weights of {least} bits exactly, and sums of two "
            f"products overflow at {bits}, so engine=int8 would run them in float32. Set budget.weight_bits={least} "
            f"(and quantize.edge_bits={least} for the first and the last layer), or engine=simulate."
        )


def check_metrics(metrics: Mapping[str, "Metric"], drawn: "Drawn", *, may_lack: bool = False) -> None:
    """Raise ValueError, under its key, for a metric that such images have no score of, or that lacks what it needs.

    may_lack: let those pass that lack a file; images that are there already lose nothing by it.
    """
    from cq.core.contracts import ChecksImages
    from cq.evaluate.protocol import MetricUnavailable

    lacking: dict[str, str] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, ChecksImages):
            continue
        try:
            metric.check(drawn)
        except MetricUnavailable as error:
            lacking[name] = str(error)
        except ValueError as error:
            where = "." if re.match(r"\w+=", str(error)) else f" with sample.num_images={drawn.num_images}: "
            raise ValueError(f"metrics.{name}{where}{error}") from error
    if lacking and not may_lack:
        leave_out = " ".join(f"'~metrics.{name}'" for name in lacking)
        raise ValueError(
            f"{', '.join(f'metrics.{name}={type(metrics[name]).__name__}' for name in lacking)}: cannot be computed "
            f"here. {' '.join(lacking.values())} Or draw the images now by adding {leave_out} to the command; the same "
            "command without that scores them then, and draws none again."
        )


def check_names(metrics: Mapping[str, "Metric"]) -> None:
    """Raise ValueError for two metrics that name a score of one name: a record would keep the later one alone."""
    from cq.core.contracts import NamesScores

    owner: dict[str, str] = {}
    for name, metric in metrics.items():
        for score in metric.better if isinstance(metric, NamesScores) else ():
            if owner.setdefault(score, name) != name:
                raise ValueError(
                    f"metrics.{name}: its score {score} is that of metrics.{owner[score]}, too, and a record has one "
                    f"of a name. Leave one out with '~metrics.{name}' or '~metrics.{owner[score]}'."
                )


def check_sizes(metrics: Mapping[str, "Metric"], image_shape: tuple[int, ...]) -> None:
    """Raise ValueError for a metric that has no value for images [C, H, W] of the model's size."""
    from cq.core.contracts import NeedsSize

    for name, metric in metrics.items():
        if isinstance(metric, NeedsSize):
            try:
                metric.check_size(*image_shape[1:])
            except ValueError as error:
                raise ValueError(f"metrics.{name} with model.image_shape={list(image_shape)}: {error}") from error


def check_files(metrics: Mapping[str, "Metric"]) -> None:
    """Raise ValueError for a metric whose files are there and cannot serve it."""
    from cq.core.contracts import ReadsFiles

    for name, metric in metrics.items():
        if isinstance(metric, ReadsFiles):
            try:
                metric.check_files()
            except ValueError as error:
                raise ValueError(f"metrics.{name}.{error}") from error


def check_seeds(run_seed: int, counts: Mapping[str, int]) -> None:
    """Raise ValueError for a run, or a number of images under a key, for which there are no seeds of their own."""
    from cq.core.seeding import IMAGES, image_seeds

    image_seeds("evaluation", run_seed=run_seed, count=1)
    for key, count in counts.items():
        if count > IMAGES:
            raise ValueError(
                f"{key}={count}: a run has {IMAGES} seeds of a kind. Take fewer, and several runs (seed=...)."
            )


def check_reach(
    planner: "SchedulePlanner", corrector: "Corrector", predictor: "Predictor", *, calibrate: "Calibrate",
    cost: "Cost", num_calls: int,
) -> None:  # fmt: skip
    """Raise ValueError where the calibration statistics will not go as many calls back as they are asked about.

    The planner asks about what it says itself; the correction of plain reuse about the longest group, which is known
    beforehand where the planner needs no statistics to plan. Longer groups of a threshold schedule are found only when
    it is planned.
    """
    from cq.core.planning import ReadsSketches, ReadsStatistics

    name = f"schedule={type(planner).__name__}"
    for member in members(planner):
        if isinstance(member, ReadsStatistics):
            _check_window(member.reach(num_calls), name, calibrate=calibrate, num_calls=num_calls)
        if isinstance(member, ReadsSketches):
            _check_window(member.probes(num_calls).reach, name, calibrate=calibrate, num_calls=num_calls)
    schedule = known_schedule(planner, cost, num_calls)
    if schedule is None or not corrector.corrects or predictor.depth > 1:
        return  # a forecast is corrected from a pass of its own
    from cq.core.acceleration import Acceleration
    from cq.predict.forecast import forecast_of

    if not Acceleration(schedule=schedule, forecast=forecast_of(schedule, predictor)).reuses_as_is:
        return
    asked = f"correct.cache={type(corrector).__name__} on the groups of up to {schedule.longest_group} calls of {name}"
    _check_window(schedule.longest_group - 1, asked, calibrate=calibrate, num_calls=num_calls)


def known_schedule(planner: "SchedulePlanner", cost: "Cost", num_calls: int) -> "CacheSchedule | None":
    """The schedule of a planner that reads nothing computed; None for one that does."""
    from cq.core.planning import PlanRequest, PlansLate

    if any(isinstance(member, PlansLate) for member in members(planner)):
        return None
    try:
        return planner.plan(PlanRequest(num_calls=num_calls, cost=cost))
    except (ValueError, OSError):
        raise
    except Exception as error:  # of a planner of your own
        raise ValueError(
            f"schedule={type(planner).__name__}: plan raised {type(error).__name__}: {error} for {num_calls} calls. "
            "Mend it; `cq check` tries a component of your own on small cases."
        ) from error


def _check_window(reach: int, asked: str, *, calibrate: "Calibrate", num_calls: int) -> None:
    reach = min(reach, num_calls - 1)
    if reach > calibrate.window:
        raise ValueError(
            f"calibrate.max_interval={calibrate.max_interval}: its statistics compare calls up to {calibrate.window} "
            f"apart (2 * max_interval - 1), and {asked} needs {reach}. Set calibrate.max_interval to at least "
            f"{ceil((reach + 1) / 2)}, or plan shorter groups."
        )
