"""The order of the stages: calibrate, schedule, correct, quantize, correct, sample, evaluate, record."""

import logging
from typing import Any

from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams, SampleSet, digest_of_tensor
from cq.core.contracts import Denoiser
from cq.core.processes import Processes, device
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.models.corrected import corrected
from cq.models.diffusion import PIXELS
from cq.run.components import Components
from cq.run.identity import described
from cq.run.outcome import RunOutcome
from cq.run.stages import Run
from cq.sampler.ddim import DDIM

log = logging.getLogger(__name__)


def run(parts: Components) -> RunOutcome | None:
    """Run one configuration end to end and return what it made (its record is not yet written).

    Of several processes only the main one gets an outcome; the others have done their part when it is None.
    """
    this = Run(parts)
    schedule = this.schedule()
    correction = this.cache_correction(schedule)
    params = this.quant_params(schedule, correction)
    output = this.quant_correction(schedule, correction, params)
    noise = this.output_correction(schedule, correction, params, output)
    twin: dict[str, Any] = {}
    if params.bits:  # the quantizer makes the twin, so it counts beside what it reads
        twin = {"params": params.digest, "output": output.digest, "quantizer": described(parts.quantizer)}
    twin |= {"noise": noise.digest} if noise.tables else {}

    def deployed() -> Denoiser:
        if not twin:
            return this.plain
        return corrected(parts.quantizer.quantize(this.model.denoiser, params, output), noise)

    drawn = baseline = this.baseline()
    if twin or len(schedule.refresh_calls) < this.num_calls or not parts.is_baseline:
        drawn = this.samples(deployed, schedule, correction, twin=twin)
    # else nothing is cached and nothing quantized: these are the same images
    with parts.store.processes.step(), parts.store.processes.alone():
        if not parts.store.processes.is_main:
            return None
        return _outcome(this, baseline(), drawn(), schedule, correction, params, output)


def _outcome(
    this: Run, baseline: SampleSet, samples: SampleSet, schedule: CacheSchedule, correction: ChannelAffine,
    params: QuantParams, output: ChannelAffine,
) -> RunOutcome:  # fmt: skip
    parts = this.parts
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
        images_digest=digest_of_tensor(samples.images_NCHW), device=_device_name(parts.store.processes),
        rounding={
            **this.arithmetic, "sample.batch_size": parts.sample.batch_size,
            "calibrate.batch_size": parts.calibrate.batch_size, "quantize.batch_size": parts.quantizer.batch_size,
        },
    )  # fmt: skip


def _device_name(processes: Processes) -> str:
    """The kind of device, and how many processes had one each."""
    several = f", {processes.count} processes" if processes.count > 1 else ""
    return f"{device().type}{several}"


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
