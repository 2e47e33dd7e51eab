"""The published numbers, one metric value a row of `results/paper.csv`, found by table and row key."""

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The metrics by which papers say that one row is better than another, and which way is good.
DIRECTION: Mapping[str, str] = {
    "FID": "down",
    "sFID": "down",
    "IS": "up",
    "CLIP": "up",
    "Bops": "down",
    "MACs": "down",
    "speedup": "up",
    "compression": "up",
}
QUALITY = ("FID", "CLIP", "IS")  # in the order in which a table's quality metric is chosen
COLUMNS = (
    "table", "row", "model", "dataset", "steps", "method", "cache_interval", "weight_bits", "act_bits",
    "metric", "value", "unit", "exact_or_approx", "source", "confidence",
)  # fmt: skip

NEEDS = "needs"  # a last column that may be missing: what running the row takes, where that is not here
MARKS: Mapping[str, str] = {"high": "", "medium": " †", "low": " ‡"}

BUDGET = {  # number of a run's budget to the column that publishes it
    "num_steps": "steps", "cache_interval": "cache_interval", "weight_bits": "weight_bits", "act_bits": "act_bits",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published value. exact: printed as such; otherwise read off a plot. confidence: in the transcription.

    unit: of the value, or "". text: value, unit and the mark of the confidence, for a cell. needs: what running the row
    takes, or "".
    """

    table: str
    row: str
    method: str
    setting: str
    metric: str
    value: float
    unit: str
    text: str
    exact: bool
    source: str
    confidence: str
    needs: str
    budget: Mapping[str, int]  # of the published row, as far as it is known

    def setting_is(self, budget: Mapping[str, Any], spread: Mapping[str, set[Any]]) -> bool:
        """Whether this value may stand beside a row of `budget`.

        spread: the values of each number in the whole table. A number that takes one value there names no row and may
        differ from the paper's (the notes say so); one that takes several must be the paper's own.
        """
        return all(
            len(spread[key]) <= 1 or budget[key] is None or budget[key] == value for key, value in self.budget.items()
        )


class Paper:
    """Published values by (table, row key)."""

    def __init__(self, values: list[Published]) -> None:
        self._values: dict[tuple[str, str], dict[str, Published]] = {}
        for value in values:
            self._values.setdefault((value.table, value.row), {})[value.metric] = value

    def find(self, table: str, paper_row: str) -> Mapping[str, Published] | None:
        """Metric to value; {} for no key, None for an unknown one. "other_table/row" looks into another table."""
        if not paper_row:
            return {}
        other, slash, row = paper_row.partition("/")
        return self._values.get((other, row) if slash else (table, paper_row))

    def keys(self, table: str) -> list[str]:
        return [row for name, row in self._values if name == table]

    def unused(self, table: str, paper_rows: Collection[str]) -> list[Mapping[str, Published]]:
        """The rows of `table` to which none of `paper_rows` points."""
        used = {(table, key) if "/" not in key else tuple(key.split("/", 1)) for key in paper_rows}
        return [values for key, values in self._values.items() if key[0] == table and key not in used]


def read_paper(path: Path) -> Paper:
    """Read `paper.csv`. Raises ValueError for other columns, a value that is no number, or a repeated cell."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) not in (COLUMNS, (*COLUMNS, NEEDS)):
            raise ValueError(f"{path}: has columns {reader.fieldnames}; must have {[*COLUMNS, NEEDS]}.")
        values, seen = [], set()
        for number, row in enumerate(reader, 2):
            cell = (row["table"], row["row"], row["metric"])
            if cell in seen:
                raise ValueError(f"{path}, line {number}: {cell} appears twice; one value a cell, delete one.")
            seen.add(cell)
            try:
                value = float(row["value"])
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: value={row['value']!r} must be a number.") from error
            if row["confidence"] not in MARKS:
                raise ValueError(
                    f"{path}, line {number}: confidence={row['confidence']!r} must be one of {list(MARKS)}."
                )
            exact = row["exact_or_approx"] == "exact"
            unit = row["unit"] if row["unit"] in ("", "x") else f" {row['unit']}"
            values.append(
                Published(
                    table=row["table"],
                    row=row["row"],
                    method=row["method"],
                    setting=f"{row['model']}, {row['dataset']}" + (f", {row['steps']} steps" if row["steps"] else ""),
                    metric=row["metric"],
                    value=value,
                    unit=row["unit"],
                    text=("" if exact else "about ") + row["value"] + unit + MARKS[row["confidence"]],
                    exact=exact,
                    source=row["source"],
                    confidence=row["confidence"],
                    needs=row.get(NEEDS) or "",
                    budget={key: int(row[column]) for key, column in BUDGET.items() if row[column]},
                )
            )
    return Paper(values)
