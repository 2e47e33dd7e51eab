"""What stands below a table: the protocol of its numbers, what they mean, and whatever is missing from it."""

from collections.abc import Mapping
from typing import Any

from cq.report.metrics import Column, canonical
from cq.report.paper import MARKS
from cq.report.tables import Table
from cq.run.record import RunRecord

# Fields of a protocol that say how the images were made, in the order in which they read best.
IMAGES: Mapping[str, str] = {
    "model": "model {}",
    "weights": "weights {}",
    "num_images": "{} images a run",
    "classes": "classes {}",
    "steps": "{} steps",
    "guidance": "guidance {}",
    "eta": "eta {}",
    "pixel_rounding": "pixels: {}",
    "interval": "intervals: {}",
    "features": "feature network {}",
    "reference": "reference statistics {}",
}
DIGITS = 12  # of a digest; enough to find it by


def notes(table: Table, *, protocols: bool = True) -> list[str]:
    """Protocol first, then seeds, costs, published values, gaps, commits and dates.

    protocols: also what is each metric's own.
    """
    records = [record for row in table.rows for record in row.records]
    ran = [record for record in records if record.drawn]
    return [
        *_protocol(table.metrics, ran)[: None if protocols else 1],
        "Several seeds: mean ± sample standard deviation; 1 seed: value [bootstrap interval].",
        "Counted: operations of the denoiser, averaged over the calls. Simulated: quality under fake quantization, "
        f"which is never timed. {_executed(ran)}Measured: wall clock of real kernels.",
        *_devices(ran),
        *_published(table),
        *_gaps(table),
        _origin(records),
    ]


def _protocol(metrics: tuple[Column, ...], ran: list[RunRecord]) -> list[str]:
    """One line of what all metrics share, then one a metric with the rest of its protocol."""
    shared = {}
    for name, words in IMAGES.items():
        values = {str(column.protocol[name]) for column in metrics if column.protocol.get(name) is not None}
        if len(values) == 1:
            shared[name] = words.format(_short(values.pop()))
    seeds = sorted({record.seed for record in ran})
    counted = f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds)) or 'none'})"
    lines = [f"Protocol: {', '.join([*shared.values(), counted])}."]
    for column in metrics:
        rest = {name: _short(value) for name, value in column.protocol.items() if name not in shared}
        lines.append(f"{column.title}: protocol {column.fingerprint[:DIGITS]}: {canonical(rest)}")
    return lines


def _short(value: Any) -> Any:
    """A digest cut to its first digits; anything else as it is."""
    digest = isinstance(value, str) and len(value) >= 40 and not set(value) - set("0123456789abcdef")
    return value[:DIGITS] if digest else value


def _executed(ran: list[RunRecord]) -> str:
    engines = sorted({record.executed for record in ran} - {""})
    return f"Executed: images drawn by integers, by {' and '.join(engines)}. " if engines else ""


def _devices(ran: list[RunRecord]) -> list[str]:
    devices = sorted({str(record.measured["device"]) for record in ran if record.measured})
    several = "; times on different devices do not compare" if len(devices) > 1 else ""
    return [f"Measured on: {', '.join(devices)}{several}."] if devices else []


def _published(table: Table) -> list[str]:
    values = [value for row in table.rows for value in row.paper.values()]
    if not values:
        return []
    models = ", ".join(dict.fromkeys(row.model for row in table.rows))
    lines = [
        f"Paper columns: {'; '.join(sorted({value.setting for value in values}))}. Ours: {models}. "
        "Where the two differ in model or data, only orders compare, not values.",
        f"Published values come from: {'; '.join(sorted({value.source for value in values}))}.",
    ]
    every = values + [value for row in table.not_run for value in row.values()]
    legend = [
        f"{mark.strip()} {confidence} confidence in the transcription"
        for confidence, mark in MARKS.items()
        if mark and any(value.confidence == confidence for value in every)
    ]
    legend += ["about: read off a plot"] * any(not value.exact for value in every)
    return [*lines, f"Published values: {'; '.join(legend)}."] if legend else lines


def _gaps(table: Table) -> list[str]:
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        for note in dict.fromkeys(record.note for record in row.ok if record.note):
            missing.setdefault(note, []).append(row.title)
    lines = []
    for note, titles in missing.items():
        where = "all rows that ran" if len(titles) == sum(bool(row.ok) for row in table.rows) else "; ".join(titles)
        lines.append(f"Noted by {where}: {note}")
    lines += [f"paper_row={key!r} names no published row; its paper columns stay empty." for key in table.unmatched]
    lines += [
        f"Left out: an earlier run of {experiment}, seed {seed}, otherwise configured, or of other code "
        f"({digest[:DIGITS]})."
        for experiment, seed, digest in table.superseded
    ]
    return lines


def _origin(records: list[RunRecord]) -> str:
    commits = {_code(record) for record in records}
    days = sorted(record.date[:10] for record in records)
    until = f" to {days[-1]}" if days[-1] != days[0] else ""
    return f"Commits: {', '.join(sorted(commits))}. Runs of {days[0]}{until}."


def _code(record: RunRecord) -> str:
    """Which code made a record: its commit or, of a wheel, its version."""
    if record.commit:
        return record.commit[:DIGITS] + ("" if record.clean_tree else " (uncommitted changes)")
    return f"none (cq {record.versions['cq']})" if record.versions.get("cq") else "unknown"


def not_run_rows(table: Table) -> list[list[str]]:
    """Heads and a line for each published row without a run: its budget, values, and what running it would take."""
    lines = []
    for values in table.not_run:
        first = next(iter(values.values()))
        interval, *widths = (first.budget.get(key) for key in ("cache_interval", "weight_bits", "act_bits"))
        budget = [f"N = {interval}"] * (interval is not None)
        budget += ["32/32" if widths == [32, 32] else "W{}A{}".format(*widths)] * (None not in widths)
        needs = next((value.needs for value in values.values() if value.needs), "")
        lines.append([
            first.method,
            first.setting,
            ", ".join(budget),
            ", ".join(f"{metric} {value.text}" for metric, value in values.items()),
            "; ".join(dict.fromkeys(value.source for value in values.values())),
            f"not run here: needs {needs}" if needs else "not run here: no experiment stands for it",
        ])  # fmt: skip
    heads = ["published row", "setting", "budget", "published", "source", "status"]
    return [heads, *lines] if lines else []
