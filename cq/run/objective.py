"""Numbers of a run that a search aims at, known by name and good direction before there are any.

scores      every score of the run's metrics: psnr_fp_db, frechet_own, ...
counted     macs_image, bops_image: of all calls of an image, once each (guidance doubles all of them alike);
            bops_share: over that of the full-precision images it is compared with; weight_bytes
measured    seconds_per_image; seconds_share: over the full-precision loop of the same minutes; peak_mem_mib
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from omegaconf import OmegaConf

from cq.core.contracts import Metric, NamesScores
from cq.run.building import build, near
from cq.run.record import RunRecord

COUNTED = ("macs_image", "bops_image", "bops_share", "weight_bytes")  # costs: down is good
FULL_BITS = 32 * 32
MEASURED = ("seconds_per_image", "seconds_share", "peak_mem_mib")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A number of a record to aim at. better: the good direction."""

    key: str
    better: Literal["up", "down"]

    @property
    def sign(self) -> int:
        """By which the number is multiplied so that more is worse."""
        return 1 if self.better == "down" else -1


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a run that could not be done returns in place of numbers. refused: before anything was computed."""

    reason: str
    refused: bool


def objectives_of(
    keys: Sequence[str], metrics: Mapping[str, Metric], *, simulated: bool, timed: bool
) -> tuple[Objective, ...]:
    """The objectives of these names. Raises ValueError for one that a run of these metrics will not have.

    timed: whether the clock is read, where there is anything to time.
    """
    better: dict[str, Literal["up", "down"]] = {}
    silent = []
    for name, metric in metrics.items():
        if isinstance(metric, NamesScores):
            better |= metric.better
        else:
            silent.append(name)
    better |= dict.fromkeys(COUNTED, "down")
    better |= dict.fromkeys(MEASURED, "down") if timed and not simulated else {}
    for key in keys:
        if key not in better:
            why = f"this run has no such number.{near(key, better)}"
            if key in MEASURED:
                why = "nothing is timed with latency.repeats=0. Choose latency=default."
                if simulated:
                    why = "fake quantization is never timed. Aim at bops_share, or set engine=int8 or quantize=none."
            elif silent:
                why += f" The scores of {', '.join(silent)} are not known before: give the metric `better`."
            raise ValueError(f"objective={key}: {why} It can aim at {', '.join(sorted(better))}.")
    if len(set(keys)) < len(keys):
        raise ValueError(f"objective={list(keys)}: names one number twice. Name each once.")
    return tuple(Objective(key=key, better=better[key]) for key in keys)


def numbers_of(record: RunRecord) -> dict[str, float]:
    """Every number of a record that can be an objective, by name."""
    counted, numbers = record.counted, {key: score["value"] for key, score in record.scores.items()}
    if counted:
        baseline = record.config["baseline"]
        sampler = build(OmegaConf.create(baseline["sampler"]), "baseline.sampler")
        numbers |= costs_of(counted, full_calls=sampler.num_calls(baseline["num_steps"]))
    if record.measured is not None:
        numbers |= {key: record.measured[key] for key in ("seconds_per_image", "peak_mem_mib")}
        numbers["seconds_share"] = 1 / record.measured["speedup"]
    return numbers


def costs_of(counted: Mapping[str, float], *, full_calls: int) -> dict[str, float]:
    """The counted costs of an image. counted: of a record. full_calls: of an image it is compared with."""
    calls = counted["num_calls"]
    return {
        "macs_image": counted["macs_mean"] * calls,
        "bops_image": counted["bops_mean"] * calls,
        "bops_share": counted["bops_mean"] * calls / (FULL_BITS * counted["macs_full"] * full_calls),
        "weight_bytes": counted["weight_bytes"],
    }


def returned(record: RunRecord, keys: Sequence[str]) -> tuple[float, ...] | Missing:
    """What a run gives back to whoever started it; () where nothing was asked for."""
    numbers = numbers_of(record) if keys else {}
    if lacking := [key for key in keys if key not in numbers]:
        return Missing(reason=f"{', '.join(lacking)}: the run has none. {record.note}".strip(), refused=False)
    return tuple(float(numbers[key]) for key in keys)
