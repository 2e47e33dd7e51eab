"""From the files of measurements to one row a scenario, way, interval, number of threads and cap."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cq.bench.jobs import RAW, Job
from cq.bench.scenario import EAGER, Scenario, Way, read_scenario, read_way
from cq.bench.timing import Seconds

log = logging.getLogger(__name__)

MIB = 2**20
Row = dict[str, Any]


def documents(out: Path, scenario: str) -> tuple[list[Row], dict[str, Row]]:
    """What was timed, and what was weighed by way, of one scenario as it is now: what was measured before an edit of it
    is left out, and said.
    """
    whole, found = read_scenario(scenario), []
    for path in sorted((out / RAW).glob(f"{scenario}.*.json")):
        each = json.loads(path.read_text())
        about = {key: each[key] for key in ("kind", "threads", "cap")}
        job = Job(name=scenario, scenario=whole, ways=tuple(each["ways"]), **about)
        if each["question"] == job.question:
            found.append(each)
        else:
            log.warning("%s: was measured before its scenario or a way of it was edited, and is left out", path)
    timed = [each for each in found if each["kind"] == "time"]
    timed.sort(key=lambda each: (each["cap"] != "native", each["threads"]))
    return timed, {each["ways"][0]: each for each in found if each["kind"] == "weigh"}


def all_rows(out: Path) -> list[Row]:
    """Rows of every scenario that has a file of times in `out`."""
    names = sorted({path.name.partition(".")[0] for path in (out / RAW).glob("*.json")})
    return [row for name in names for row in rows_of(name, read_scenario(name), *documents(out, name))]


def rows_of(
    name: str, scenario: Scenario, timed: Sequence[Mapping[str, Any]], weighed: Mapping[str, Mapping[str, Any]]
) -> Iterator[Row]:
    """interval 1 is without a cache; a speed-up is of composed trajectories, against those without a cache."""
    for cell in timed:
        seconds = {
            way: Seconds(**{key: tuple(value) for key, value in each.items()}) for way, each in cell["seconds"].items()
        }
        ways = {way: read_way(way) for way in seconds}
        best = fastest(ways, seconds, cell["num_calls"])
        for way, taken in seconds.items():
            for interval in (1, *scenario.intervals):
                yield {
                    "scenario": name, "title": scenario.title, "way": way, "label": ways[way].label,
                    "threads": cell["threads"], "cap": cell["cap"], "interval": interval,
                    **_row(cell, taken, interval, seconds, way, best),
                    **_weight(weighed.get(way), weighed.get(EAGER), interval),
                    "paper_gpu_speedup": scenario.paper.get(str(interval), "") if cell["bits"][way] != "fp32" else "",
                    **cell["machine"], "date": cell["date"],
                }  # fmt: skip


def fastest(ways: Mapping[str, Way], seconds: Mapping[str, Seconds], num_calls: int) -> str:
    """The baseline whose uncached trajectory takes least."""
    baselines = [way for way in seconds if ways[way].baseline]
    return min(baselines, key=lambda way: seconds[way].composed(num_calls, num_calls))


def _row(
    cell: Mapping[str, Any], taken: Seconds, interval: int, seconds: Mapping[str, Seconds], way: str, best: str
) -> Row:
    calls = cell["num_calls"]
    refreshes = len(range(0, calls, interval))
    composed = taken.composed(calls, refreshes)
    low, high = taken.bounds(calls, refreshes)
    row: Row = {
        "bits": cell["bits"][way], "num_calls": calls, "refreshes": refreshes, "rounds": len(taken.trajectory),
        **_spread("full_call", taken.full), **_spread("cached_call", taken.cached),
        "composed_trajectory_s": composed,
        **_spread("measured_trajectory", taken.trajectory),
        "measured_calls": (len(taken.full) + len(taken.cached)) // len(taken.trajectory),
        "measured_refreshes": len(taken.full) // len(taken.trajectory),
    }  # fmt: skip
    row["measured_over_composed"] = row["measured_trajectory_s_median"] / taken.composed(
        row["measured_calls"], row["measured_refreshes"]
    )
    for kind, base in (("eager", EAGER), ("best_fp32", best)):
        against = seconds[base]
        fast, slow = against.bounds(calls, calls)
        row |= {
            f"speedup_over_{kind}": against.composed(calls, calls) / composed,
            f"speedup_over_{kind}_low": fast / high, f"speedup_over_{kind}_high": slow / low,
        }  # fmt: skip
    return {**row, "best_fp32": best}


def _spread(name: str, seconds: Sequence[float]) -> Row:
    return {f"{name}_s_median": median(seconds), f"{name}_s_min": min(seconds), f"{name}_s_max": max(seconds)}


def _weight(own: Mapping[str, Any] | None, eager: Mapping[str, Any] | None, interval: int) -> Row:
    """Bytes, and what counting says; empty where it was not weighed."""
    keys = ("weights_disk", "weights_memory", "peak_serving")
    if own is None or eager is None:
        return {**{f"{key}_mib": "" for key in keys}, "counted_macs_ratio": "", "counted_bops_ratio": ""}
    whole, cost = eager["counted"]["1"], own["counted"][str(interval)]
    return {
        **{f"{key}_mib": own[f"{key}_bytes"] / MIB for key in keys},
        "counted_macs_ratio": whole["macs_mean"] / cost["macs_mean"],
        "counted_bops_ratio": whole["bops_mean"] / cost["bops_mean"],
    }
