"""Quality against preparation time: what a configuration costs once, before its first image (figure 7 of the paper)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cq.report.cells import DASH
from cq.report.metrics import judging
from cq.report.paper import Published
from cq.report.tables import Row, Table
from cq.report.text import bullets, pipes
from cq.run.record import PREPARATION

if TYPE_CHECKING:
    import pandas as pd

PAPER = "figure7"
TIME = "preparation time"
NOTES = (
    "Preparation: wall clock of making all that a configuration needs before its first image, once, whichever run made "
    "it and however many shared it: calibration statistics, schedule, corrections, quantization. Loading the model is "
    "left out. A calibration pass serves every interval and counts in full for each.",
    "Measured on machines that may have had other work; seconds of one stage differ by half and more between runs. "
    "Fake quantization is calibrated here, which needs no low-bit kernels.",
    "Records from before the time of making was kept: the longest that any run spent on the same artefact.",
)


def prepared(table: Table) -> list[Row]:
    """The rows whose preparation time is known; [] where these do not differ by whole seconds."""
    rows = [row for row in table.rows if row.preparation is not None]
    return rows if len({round(row.preparation.total.mean) for row in rows if row.preparation}) > 1 else []


def published(table: Table) -> list[Mapping[str, Published]]:
    """The paper's points: metric to value, of which one is the time."""
    found = [table.paper.find(PAPER, key) or {} for key in table.paper.keys(PAPER)]
    return [values for values in found if TIME in values and len(values) > 1]


def preparation_markdown(table: Table) -> str:
    """A line a row, longest preparation last, and the paper's points below; "" without rows that differ."""
    rows = prepared(table)
    if not rows:
        return ""
    columns = judging(table.metrics)
    stages = _stages(rows)
    heads = ["configuration", "preparation, s (measured)", *(f"{stage}, s" for stage in stages)]
    lines = [[*heads, *(column.title for column in columns), "seeds"]]
    for row in sorted(rows, key=_total):
        assert row.preparation is not None
        times = [row.preparation.stages.get(stage) for stage in stages]
        lines.append([
            row.title, row.preparation.total.text(1), *(DASH if stat is None else stat.text(1) for stat in times),
            *(row.scores[c.key].text(c.decimals) if row.judged_by(c.key) else DASH for c in columns), row.seeds,
        ])  # fmt: skip
    text = [f"# {table.name}: quality against preparation time", "", *pipes(lines), "", *bullets(NOTES)]
    points = published(table)
    if points:
        text += ["", "## In the paper", "", *pipes(_points(points))]
    return "\n".join(text) + "\n"


def preparation_frame(table: Table) -> "pd.DataFrame":
    """The same for machines, rows in the order of the table."""
    import pandas as pd

    rows = prepared(table)
    lines = []
    for row in rows:
        assert row.preparation is not None
        line: dict[str, Any] = {"table": table.name, "label": row.label, "model": row.model, **row.budget}
        line |= {"preparation_seconds": row.preparation.total.mean, "spread": row.preparation.total.spread}
        for stage in _stages(rows):
            stat = row.preparation.stages.get(stage)
            line[f"{stage}_seconds"] = stat and stat.mean
        for column in judging(table.metrics):
            stat = row.scores[column.key] if row.judged_by(column.key) else None
            line |= {column.key: stat and stat.mean, f"{column.key}_spread": stat and stat.spread}
        lines.append(line | {"num_seeds": row.preparation.total.num})
    return pd.DataFrame(lines).astype(object)


def _total(row: Row) -> float:
    assert row.preparation is not None
    return row.preparation.total.mean


def _stages(rows: list[Row]) -> list[str]:
    """Stages that took half a second in any row; identities take none."""
    taken = {
        name
        for row in rows
        if row.preparation
        for name, stat in row.preparation.stages.items()
        if stat.mean >= 0.5
    }  # fmt: skip
    return [name for name in PREPARATION if name in taken]


def _points(points: list[Mapping[str, Published]]) -> list[list[str]]:
    lines = [["method", "setting", "preparation", "published", "source"]]
    for values in points:
        time = values[TIME]
        quality = ", ".join(f"{name} {value.text}" for name, value in values.items() if name != TIME)
        lines.append([time.method, time.setting, time.text, quality, time.source])
    return lines
