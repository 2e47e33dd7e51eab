"""The order of the stages: calibrate, schedule, correct, quantize, correct, sample, evaluate, record."""

import logging
from collections.abc import Collection
from functools import partial
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.artifacts import SampleSet, digest_of_tensor
from cq.core.contracts import FitsAlongTrajectories
from cq.core.processes import Processes, device
from cq.correct.along import calls_on_grid
from cq.models.diffusion import DiffusionModel
from cq.run.components import Components
from cq.run.context import Run
from cq.run.evaluation import Evaluation
from cq.run.outcome import RunOutcome
from cq.run.stages.accelerated import Accelerated
from cq.run.stages.corrections import CacheCorrection, OutputCorrection, QuantCorrection
from cq.run.stages.quantization import Quantization
from cq.run.stages.samples import Baseline, Samples
from cq.run.stages.schedule import Schedule
from cq.run.stages.sketches import Sketches
from cq.run.stages.stage import Part, Stage
from cq.run.stages.statistics import Statistics
from cq.run.stages.timing import TimedRuns
from cq.run.telling import begun, calls_of, left
from cq.run.tracking import NO_LOG, RunLog

log = logging.getLogger(__name__)

PARTS = (Schedule, CacheCorrection, Quantization, QuantCorrection, OutputCorrection)  # of the Acceleration, in order
# What takes time or memory, in order.
STEPS: tuple[type[Stage[Any]] | type[Evaluation], ...] = (
    Statistics, Sketches, *PARTS, Baseline, Samples, TimedRuns, Evaluation,
)  # fmt: skip


def accelerated(run: Run) -> Acceleration:
    """Calibrate: every part of the run's Acceleration, each fitted to those before it."""
    made = run.unaccelerated
    for stage in PARTS:
        made = stage(run).after(made)
    return Accelerated(run).get(made)


def run(parts: Components, live: RunLog = NO_LOG) -> RunOutcome | None:
    """Run one configuration end to end and return what it made (its record is not yet written).

    live: told how far it is. Of several processes only the main one gets an outcome; the others have done their part
    when it is None.
    """
    this = Run(parts)
    this.live, parts.store.on_stage = live, live.stage
    beginning = begun(this)
    if parts.store.processes.is_main:
        this.on_load = partial(_tell_estimate, this)
        for line in beginning:
            log.info("%s", line)
    acceleration = accelerated(this)
    full = Baseline(this)
    drawn = baseline = full.drawn(full.unaccelerated)
    if acceleration.quantized or acceleration.caches or not parts.is_baseline:
        drawn = Samples(this).drawn(acceleration)
    # else nothing is cached and nothing quantized: these are the same images
    with parts.store.processes.step(), parts.store.processes.alone():
        if not parts.store.processes.is_main:
            return None
        return _outcome(this, baseline(), drawn(), acceleration)


def _tell_estimate(this: Run, model: DiffusionModel) -> None:
    there = set(this.store.digests) | ({Baseline.name} if Baseline(this).is_there else set())
    for line in left(_estimate(this, model, there), quantized=this.parts.quantized):
        log.info("%s", line)


def _estimate(this: Run, model: DiffusionModel, there: Collection[str]) -> float:
    """About the seconds of the stages that are not `there`."""
    calls = calls_of(this, model)
    steps = [make(this) for make in STEPS]
    return sum(step.seconds(calls) for step in steps if step.needed and step.name not in there)


def check_trajectory(parts: Components) -> None:
    """Raise ValueError for a solver whose calls the trajectory that it is corrected towards does not pass.

    A cell of a table is refused by it when it is its turn, and the others run.
    """
    if not isinstance(parts.correct_output, FitsAlongTrajectories) or parts.is_baseline:
        return
    solvers = ((parts.baseline_sampler, parts.baseline_steps), (parts.sampler, parts.sample.num_steps))
    grids = [
        [float(t) for t in sampler.noise_scheduler(parts.model.noise, steps).timesteps] for sampler, steps in solvers
    ]
    calls_on_grid(*grids)


def check_seconds(parts: Components, most: float | None, *, anew: bool) -> None:
    """Raise ValueError where the run would take longer than `most`. anew: whether nothing in the store is taken."""
    if most is None:
        return
    this = Run(parts)
    seconds = _estimate(this, this.model, () if anew else stored(this))
    about = parts.store.processes.told(seconds)  # one clock decides for all
    if about > most:
        raise ValueError(
            f"limit.seconds={most:g}: this run will take about {about:.3g} for what is not in the store. Raise the "
            "limit, or draw fewer images, take fewer steps or lengthen budget.cache_interval."
        )


def stored(this: Run) -> frozenset[str]:
    """The stages that the run would find in the store; those after one that is missing have no name before it is made.

    Raises ValueError for a damaged artefact.
    """
    full, made = Baseline(this), this.unaccelerated
    known: list[tuple[Stage[Any], Acceleration]] = [(full, full.unaccelerated), (Statistics(this), made)]
    if Sketches(this).needed:
        known.append((Sketches(this), made))
    parts: list[Part[Any]] = [kind(this) for kind in PARTS]
    for part in parts:
        folder = part.folder(made)
        known.append((part, made))
        if not folder.exists():
            break
        made = part.joined(made, part.kind.load(folder))
    else:
        known += [(Samples(this), made), (TimedRuns(this), made)]
    found = {stage.name for stage, before in known if stage.folder(before).exists()}
    reads = {Schedule.name, CacheCorrection.name}  # nothing else asks for the statistics
    found |= {Statistics.name} if reads <= found else set()
    return frozenset(found | {Sketches.name} if Schedule.name in found else found)


def _outcome(this: Run, baseline: SampleSet, samples: SampleSet, acceleration: Acceleration) -> RunOutcome:
    parts, evaluation = this.parts, Evaluation(this)
    timing, engine = TimedRuns(this).get(acceleration), this.engine_for(acceleration)
    scores = evaluation.scores(samples, baseline)
    return RunOutcome(
        acceleration=acceleration, samples=samples, baseline=baseline, scores=scores.found, missing=scores.missing,
        counted=evaluation.counted(acceleration), measured=timing.summary(), seconds=dict(parts.store.seconds),
        made=dict(parts.store.made), digests=dict(parts.store.digests), weights_digest=parts.model.weights_digest(),
        images_digest=digest_of_tensor(samples.images_NCHW), device=_device_name(parts.store.processes),
        executed=type(engine).__name__ if acceleration.quantized and engine.real(acceleration) else "",
        folder=Accelerated(this).folder(acceleration), folders=dict(parts.store.folders),
        rounding={
            **this.origin["arithmetic"], "sample.batch_size": parts.sample.batch_size,
            "calibrate.batch_size": parts.calibrate.batch_size, "quantize.batch_size": parts.quantizer.batch_size,
        },
    )  # fmt: skip


def _device_name(processes: Processes) -> str:
    """The kind of device, and how many processes had one each."""
    several = f", {processes.count} processes" if processes.count > 1 else ""
    return f"{device().type}{several}"
