"""What a whole table will take before it starts: hours, memory and disk by row and in total.

What is recorded, or in the store, is said and not counted; what several runs share is counted with the first of them.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cq.cli.jobs import Job
from cq.cli.plan import estimate_seconds, time_calls, unshared
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import GIB, CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.memory import call_bytes, fitted, peak_bytes
from cq.run.pipeline import stored
from cq.run.stages.samples import Baseline, Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run. answered: where its answer is recorded already, and then all else is zero; else "".

    memory, disk: bytes, at their peak. stored: the stages that it will find. images: to be drawn or found.
    """

    answered: str = ""
    seconds: float = 0.0
    memory: int = 0
    disk: int = 0
    images: int = 0
    stored: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """runs: in the order of the jobs. calls: as timed on the model of the first run that is not answered, if any."""

    names: Sequence[str]
    runs: Sequence[RunPlan]
    calls: CallSeconds | None

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(run.seconds for run in self.runs)

    @property
    def told(self) -> list[str]:
        """The total, in two lines."""
        if self.calls is None:
            return ["everything is recorded already"]
        full, cached = self.calls.full * 1e3, self.calls.cached * 1e3
        minutes = f"{max(1, self.seconds / 60):.0f} minutes"
        time = minutes if self.seconds < 7200 else f"{self.seconds / 3600:.1f} hours"
        return [
            f"a full call takes {full:.1f} ms an image, a cached one {cached:.1f} ms: about {time} for everything",
            f"{sum(run.images for run in self.runs)} images, peak memory about "
            f"{max(run.memory for run in self.runs) / GIB:.1f} GiB, at most "
            f"{sum(run.disk for run in self.runs) / GIB:.1f} GiB on disk",
        ]

    def __str__(self) -> str:
        wide = max(map(len, self.names))
        lines = [f"{'':{wide}}  {'hours':>9}  {'memory, GiB':>11}  {'disk, GiB':>9}"]
        for name, run in zip(self.names, self.runs, strict=True):
            numbers = f"{run.seconds / 3600:9.2f}  {run.memory / GIB:11.2f}  {run.disk / GIB:9.2f}"
            lines.append(f"{name:{wide}}  {f'  {run.answered}' if run.answered else numbers}")
        total = [sum(run.seconds for run in self.runs) / 3600, max(run.memory for run in self.runs) / GIB]
        total += [sum(run.disk for run in self.runs) / GIB]
        lines += [f"{'total':{wide}}  {total[0]:9.2f}  {total[1]:11.2f}  {total[2]:9.2f}", *self.told]
        found = Counter(stage for run in self.runs for stage in run.stored)
        if found:
            stages = ", ".join(f"{stage} of {count}" for stage, count in sorted(found.items()))
            lines.append(f"in the store and not counted, by runs: {stages}")
        return "\n".join(lines)


def plan_table(jobs: Sequence[Job], answered: Sequence[str]) -> TablePlan:
    """The plan of the jobs, from a few timed calls and two counted ones of each model among those to be run.

    answered: of each job where its answer is, or "". Raises ValueError for a run that cannot fit into its memory.
    """
    todo = [number for number, where in enumerate(answered) if not where]
    parts = {number: Components.of(jobs[number].config) for number in todo}
    alike: dict[str, list[Components]] = {}
    for part in parts.values():
        alike.setdefault(_model(part), []).append(part)
    models = {name: _timed(those) for name, those in alike.items()}
    runs, there, stages = {}, {}, {}
    for number in todo:
        calls, counted, weights = models[_model(parts[number])]
        runs[number] = run = Run(fitted(parts[number], counted), weights)
        there[number] = frozenset() if jobs[number].config.force else stored(run)
        found = estimate_seconds(run.parts, calls)
        stages[number] = {stage: found[stage] for stage in found if stage not in there[number]}
    own = dict(zip(todo, unshared([(runs[number], stages[number]) for number in todo]), strict=True))
    plans = [RunPlan(answered=where) for where in answered]
    for number, run in runs.items():
        plans[number] = RunPlan(
            seconds=sum(own[number].values()), stored=there[number], images=run.parts.sample.num_images,
            memory=max(peak_bytes(run, models[_model(run.parts)][1]).values()),
            # of both sets of images, those that this run draws
            disk=run.parts.disk_bytes * sum(bool(own[number].get(step.name)) for step in (Samples, Baseline)) // 2,
        )  # fmt: skip
    return TablePlan(names=names_of(jobs), runs=plans, calls=models[_model(parts[todo[0]])][0] if todo else None)


def _timed(parts: Sequence[Components]) -> tuple[CallSeconds, CallBytes, str]:
    """What the calls of their model take, and the digest of its weights."""
    quantizer = next((each.quantizer for each in parts if each.quantized), None)
    log.info("%s: loading it, counting its calls' memory, timing them", parts[0].model.weights)
    weights = parts[0].model.weights_digest()
    model = Run(parts[0], weights).model
    counted = call_bytes(parts[0], model)
    return time_calls(parts[0], quantizer, model=model), counted, weights


def _model(parts: Components) -> str:
    return str([described(parts.model), parts.dtype])


def names_of(jobs: Sequence[Job]) -> list[str]:
    """The row of each, and what a grid sets differently in others."""
    values: dict[str, set[str]] = {}
    for word in (word for job in jobs for word in job.overrides):
        values.setdefault(word.partition("=")[0], set()).add(word)
    return [
        " ".join([job.config.row.name, *(word for word in job.overrides if len(values[word.partition("=")[0]]) > 1)])
        for job in jobs
    ]
