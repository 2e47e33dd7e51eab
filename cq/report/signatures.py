"""Failure signatures: what a run that went wrong looks like, what causes it, and what to do next.

One function a signature, with its thresholds above it. Those that read the record alone are told at the end of a run;
the others need what the store keeps, and are told on the run's page.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.run.record import RunRecord

if TYPE_CHECKING:  # these bring torch
    from torch import Tensor

    from cq.core.acceleration import Acceleration
    from cq.core.artifacts import ChannelAffine, TrajectoryStatistics
    from cq.evaluate.diagnosis import Diagnosis
    from cq.report.kept import Kept

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """name: of the failure. evidence: the numbers that show it. cause, and remedy: the next thing to do."""

    name: str
    evidence: str
    cause: str
    remedy: str

    @property
    def line(self) -> str:
        return f"{self.name}: {self.evidence}. {self.cause} {self.remedy}"


def warn_of(record: RunRecord) -> None:
    """Log what the record alone shows, one line a signature."""
    for sign in of_record(record):
        log.warning("%s", sign.line)


def of_record(record: RunRecord) -> tuple[Signature, ...]:
    """The signatures that the record alone shows."""
    return tuple(sign for sign in (falls_at_a_step(record), cache_not_reused(record)) if sign is not None)


def of_artefacts(record: RunRecord, found: "Kept") -> tuple[Signature, ...]:
    """All signatures that can be looked for with what is there."""
    acceleration, diagnosis = found.acceleration, found.diagnosis
    signs = [falls_at_a_step(record), cache_not_reused(record, diagnosis)]
    if acceleration is not None:
        signs.append(correction_corrupted(acceleration, found.statistics))
        if found.errors_N is not None and found.baseline is not None:
            baseline = found.baseline
            signs.append(flipped_by_outliers(acceleration, baseline.latents_NCHW, found.errors_N, baseline.seeds))
    if diagnosis is not None and diagnosis.layers:
        signs += [channels_shift(diagnosis), range_off(diagnosis)]
    return tuple(sign for sign in signs if sign is not None)


CURVE = "latent_error_fp"
# A fifth of the latents' norm is a change that is seen in the image (PSNR of some 25 dB on the bundled models). Error
# grows along every cached trajectory: it is one group's fault where that group made more than half of it.
JUMP, JUMP_SHARE = 0.2, 0.5
MENDING = {
    "correct_cache": "correct the map: correct@correct.cache=channel_affine",
    "correct_output": "lead the prediction back: correct@correct.output=closed_loop",
}


def falls_at_a_step(record: RunRecord) -> Signature | None:
    """Quality falls within one group of cached calls: the schedule is too aggressive there."""
    curve = list(record.scores.get(CURVE, {}).get("curve") or ())
    refreshes = list(record.schedule.get("refresh_calls", ()))
    if not refreshes or len(curve) != record.schedule["num_calls"]:
        return None
    groups = list(zip(refreshes, [*refreshes[1:], len(curve)], strict=True))
    grown = [curve[end - 1] - (curve[start - 1] if start else 0.0) for start, end in groups]
    worst = max(range(len(groups)), key=lambda place: grown[place] if math.isfinite(grown[place]) else math.inf)
    start, end = groups[worst]
    jump, peak = grown[worst], max(curve)
    if end - start < 2 or (math.isfinite(jump) and (jump < JUMP or jump < JUMP_SHARE * peak)):
        return None
    off = [remedy for slot, remedy in MENDING.items() if record.choices.get(slot) in ("none", "", None)]
    return Signature(
        name="quality falls at a step",
        evidence=f"the error of the latents grows by {jump:.2f}, of {peak:.2f} in all, in calls {start} to {end - 1}",
        cause=f"{end - start} calls in a row stand on the map of call {start}: too many there.",
        remedy="Set a smaller budget.cache_interval, or a schedule with refreshes there (schedule=dps, "
        f"cost=sqrt_weighted_l1){''.join(f', or {remedy}' for remedy in off)}.",
    )


# Of the speed-up that is counted beyond 1, the bundled models give 0.4 to 1.1 on the clock (252 recorded runs), and
# about 0 where every call runs whole. Below 1.3 the clock's own spread is as large.
REUSED, WORTH = 0.2, 1.3
EXECUTED = 1.05  # operations that ran over those counted; both are counts of the same layers


def cache_not_reused(record: RunRecord, diagnosis: "Diagnosis | None" = None) -> Signature | None:
    """Cached calls cost what whole ones do, by the operations that ran or by the clock."""
    if not record.counted or not record.counted.get("macs_mean"):
        return None
    name, calls = "speed below the counted one", record.counted["num_calls"]
    scheduled, ratio = record.counted["num_refreshes"], record.counted["macs_full"] / record.counted["macs_mean"]
    cause = "Maps are recorded and not reused, or what is before the cut runs all the same."
    if diagnosis is not None:
        ran = float(diagnosis.macs_T.mean()) / record.counted["macs_mean"]
        whole = int((diagnosis.macs_T > 0.99 * record.counted["macs_full"]).sum())
        if ran > EXECUTED:
            return Signature(
                name=name,
                evidence=f"{whole} of {calls} calls ran the whole network, and {scheduled} were scheduled to; "
                f"{ran:.2f} times the counted operations ran",
                cause=cause,
                remedy="Look at `shallow` of the model's network: pytest tests/contracts/test_caching_laws.py",
            )
    speedup, steps = (record.measured or {}).get("speedup"), record.config["baseline"]["num_steps"]
    own = record.budget["num_steps"] or steps
    counted = ratio * steps / own
    if speedup is None or counted < WORTH or speedup - 1 >= REUSED * (counted - 1):
        return None
    return Signature(
        name=name,
        evidence=f"{speedup:.2f} times as fast as full precision by the clock, {counted:.2f} times by counted "
        f"operations; {scheduled} of {calls} calls are scheduled to run whole",
        cause=f"{cause} Or the machine was busy, or calls are too small to gain.",
        remedy="Time again on a quiet machine, with a larger batch: force=true latency.repeats=9 latency.batch_size=8",
    )


# Least squares cannot be worse than no correction on the data it was fitted to; rounding to float32 is far below this.
WORSE = 1.01
# Gains lie in -0.3 to 3.1 on the bundled models: a map that must be made ten times as large is another one.
FAR = 10.0


def correction_corrupted(
    acceleration: "Acceleration", statistics: "TrajectoryStatistics | None" = None
) -> Signature | None:
    """A correction that is not finite, far from the identity, or makes the error larger than it is without one."""
    for slot in ("cache", "quant", "output"):
        correction: ChannelAffine = getattr(acceleration, slot)
        evidence = next(_broken(correction), "")
        if slot == "cache" and not evidence and statistics is not None and correction.tables:
            evidence = _worse(acceleration, statistics)
        if evidence:
            return Signature(
                name="correction corrupted",
                evidence=f"{slot}: {evidence}",
                cause="What was fitted is not what is applied: an edited or damaged table, or one of other weights.",
                remedy=f"Fit it again: force=true; or leave it out: correct@correct.{slot}=none",
            )
    return None


def _broken(correction: "ChannelAffine") -> Iterator[str]:
    for name, table_T2C in correction.tables.items():
        bad = (~table_T2C.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            yield f"gain or offset of {name} is not finite at call {bad[0]}"
        gain_TC = table_T2C[:, 0].abs()
        if float(gain_TC.max()) > FAR:
            call, channel = divmod(int(gain_TC.argmax()), gain_TC.shape[1])
            yield f"the gain of {name} is {float(table_T2C[call, 0, channel]):.3g} at call {call}, channel {channel}"


def _worse(acceleration: "Acceleration", statistics: "TrajectoryStatistics") -> str:
    """Where plain reuse was nearer to the true map, by the moments of calibration; "" where nowhere."""
    import torch

    from cq.correct.fit import residual_sum_of_squares
    from cq.correct.from_statistics import moments_for_schedule

    schedule = acceleration.schedule
    fits = schedule.num_calls == statistics.num_calls and schedule.longest_group <= statistics.window + 1
    if not (fits and acceleration.reuses_as_is):
        return ""
    for site, table_T2C in acceleration.cache.tables.items():
        moments = moments_for_schedule(statistics, schedule, site)
        gain_TC, offset_TC = table_T2C.double().unbind(1)
        after_T = residual_sum_of_squares(moments, gain_TC, offset_TC).sum(1)
        before_T = residual_sum_of_squares(moments, torch.ones_like(gain_TC), torch.zeros_like(gain_TC)).sum(1)
        floor = 1e-9 * float(moments.target_square_TC.sum(1).max())  # of maps that hardly change
        worse_T = after_T / before_T.clamp(min=floor)
        if float(worse_T.max()) > WORSE:
            call = int(worse_T.argmax())
            return f"after it {site} is off {float(worse_T[call]):.3g} times as much (squared) at call {call} as before"
    return ""


# A channel whose own output is off by a third, while it and few others make most of the layer's error: rounding errors
# spread over channels as their sizes do. A tenth of the channels is what one wrong scale of a group may touch.
CHANNEL_ERROR, CHANNELS, CHANNEL_SHARE = 0.3, 0.1, 0.5
TYPICAL = 4.0  # times the error of the median channel


def channels_shift(diagnosis: "Diagnosis") -> Signature | None:
    """A few output channels of a layer carry its error: their scale is off."""
    worst: tuple[float, str, str] = (0.0, "", "")
    for layer in diagnosis.layers:
        error_C, square_C = diagnosis.square_error[layer].double(), diagnosis.square[layer].double()
        if len(error_C) < 2 or float(error_C.sum()) == 0:
            continue
        relative_C = (error_C / square_C.clamp(min=1e-6 * float(square_C.mean()))).sqrt()
        off_C = (relative_C > CHANNEL_ERROR) & (relative_C > TYPICAL * relative_C.median())
        share, number = float(error_C[off_C].sum() / error_C.sum()), int(off_C.sum())
        if 0 < number <= max(1, CHANNELS * len(error_C)) and share >= max(CHANNEL_SHARE, worst[0]):
            channels = ", ".join(str(channel) for channel in off_C.nonzero().flatten().tolist()[:5])
            shift = float((diagnosis.mean_error[layer].double() / square_C.sqrt()).abs()[off_C].max())
            worst = share, layer, (
                f"channels {channels} of {layer} carry {share:.0%} of its error and are off by "
                f"{float(relative_C[off_C].max()):.0%}, by {shift:.0%} on average over all values; the median one by "
                f"{float(relative_C.median()):.2%}"
            )  # fmt: skip
    _, layer, evidence = worst
    if not layer:
        return None
    return Signature(
        name="channels shift",
        evidence=evidence,
        cause="The scales of these output channels, or their gains in the correction, do not fit the weights.",
        remedy=f"Calibrate again (force=true), or keep the layer in full precision: 'quantize.exclude=[{layer}]'",
    )


# An image that is off by a third of its latents' norm shows something else than its full-precision twin. Where more
# than a quarter of all images do, it is no matter of outliers.
FLIPPED, FEW = 0.3, 0.25
# The range is the cause where half of the flipped images go further beyond it than nine in ten of the others do.
OFTEN, OTHERS = 0.5, 0.9


def flipped_by_outliers(
    acceleration: "Acceleration", states_NCHW: "Tensor", errors_N: "Tensor", seeds: tuple[int, ...]
) -> Signature | None:
    """A few images are others than their full-precision twins, and those have values beyond the first layer's range.

    states_NCHW: the final latents in full precision, which the last call's input differs little from.
    """
    import torch

    flipped_N = errors_N > FLIPPED
    row = acceleration.params.coverage[0] if acceleration.quantized else {"reason": "full precision"}
    if row["reason"] or row.get("dynamic") or not 0 < int(flipped_N.sum()) <= FEW * len(flipped_N):
        return None
    name = f"{row['name']}.input0"
    tensors, levels = acceleration.params.tensors, 2 ** acceleration.params.bits[name] - 1
    scale, zero_point = float(tensors[f"{name}/scale"][-1]), int(tensors[f"{name}/zero_point"][-1])
    low, high = -(zero_point + 0.5) * scale, (levels - zero_point + 0.5) * scale
    flat = states_NCHW.flatten(1)
    beyond_N = torch.maximum(flat.amax(1) - high, low - flat.amin(1)).clamp(min=0.0)
    further_N = beyond_N > beyond_N[~flipped_N].quantile(OTHERS)
    if float(further_N[flipped_N].float().mean()) < OFTEN:
        return None
    which = ", ".join(str(seeds[place]) for place in flipped_N.nonzero().flatten().tolist()[:5])
    return Signature(
        name="images flipped by an outlier",
        evidence=f"{int(flipped_N.sum())} of {len(errors_N)} images are off by more than {FLIPPED:.0%} (seeds {which})"
        f", the median by {float(errors_N.median()):.1%}; {int(further_N[flipped_N].sum())} of them go beyond the "
        f"range of the first layer, {row['name']} ({low:.2f} to {high:.2f}), by up to {float(beyond_N.max()):.2f}, and "
        f"{int(further_N[~flipped_N].sum())} of the others do as far",
        cause="Its range was chosen from few trajectories, and cuts off the rare ones that go further.",
        remedy="Give its range room (quantize=edges), or keep the layer in full precision: "
        f"'quantize.exclude=[{row['name']}]'",
    )


# Ranges span 0.9 to 7 times the common values of activations on the bundled models, and cut off up to 1.4 % of them; a
# layer with a fifth of all error is one that matters.
WIDE, CLIPPED, SHARE = 15.0, 0.03, 0.2


def range_off(diagnosis: "Diagnosis") -> Signature | None:
    """The range of a layer's input is set by a few values, or cuts off many; and the layer makes much of the error."""
    span_I = diagnosis.span_KI.nan_to_num(1.0).max(0).values
    clipped_I = diagnosis.clipped_KI.nan_to_num(0.0).max(0).values
    share_L = dict(zip(diagnosis.layers, diagnosis.share_L.tolist(), strict=True))
    layers = [name.rpartition(".")[0] for name in diagnosis.inputs]
    off = [place for place in range(len(layers)) if span_I[place] > WIDE or clipped_I[place] > CLIPPED]
    worst = max(off, key=lambda place: share_L[layers[place]], default=None)
    if worst is None or share_L[layers[worst]] < SHARE:
        return None
    layer, cut = layers[worst], float(clipped_I[worst])
    if cut > CLIPPED:
        found = f"lies beyond its range with {cut:.1%} of its values"
    else:
        found = f"has a range {float(span_I[worst]):.1f} times that of its common values"
    return Signature(
        name="images flipped by an outlier",
        evidence=f"the input {diagnosis.inputs[worst]} {found}; {share_L[layer]:.0%} of all layers' error is there",
        cause="Few values decide the range of all: the others share a handful of levels, or are cut off.",
        remedy="Choose ranges by error (quantize=ptq) or by percentile (quantize=percentile), from more "
        f"quantize.num_samples; or keep the layer in full precision: 'quantize.exclude=[{layer}]'",
    )
