"""A table and its rows: what is read off the records of a configuration, and how a table is laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cq.report.cells import COSTS, DASH, Stat, cost_text
from cq.report.making import Preparation
from cq.report.metrics import Column, against_full_precision
from cq.report.paper import DIRECTION, Paper, Published
from cq.run.record import RunRecord
from cq.run.tables import title_of

if TYPE_CHECKING:
    import pandas as pd


def baseline_steps(record: RunRecord) -> int:
    """Steps of the full-precision images that a run is compared with."""
    return int(record.config["baseline"]["num_steps"])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: the records of its seeds (`ok` are those that ran), and what they say together.

    published: what the paper says of the row that this one stands for. paper: the same where the budget is the paper's
    own, so that the two may stand side by side; else empty. preparation: None where it is not known. settings: what
    tells cells of one label apart beside the budget, by axis; empty where the label alone does.
    """

    label: str
    title: str
    budget: Mapping[str, Any]
    model: str
    records: tuple[RunRecord, ...]
    scores: Mapping[str, Stat]
    costs: Mapping[str, Stat]
    published: Mapping[str, Published]
    paper: Mapping[str, Published]
    preparation: Preparation | None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.drawn)

    @property
    def bits(self) -> str:
        weight, act = self.budget["weight_bits"], self.budget["act_bits"]
        if not self.records[0].quantized or (weight is None and act is None):
            return "32/32"
        return f"W{weight}A{act}"

    @property
    def is_full_precision(self) -> bool:
        """Whether nothing was cached, quantized or left out: what metrics against full precision compare with."""
        return (
            not self.records[0].quantized
            and all(record.counted["num_refreshes"] == record.counted["num_calls"] for record in self.ok)
            and self.is_at_full_length
        )

    @property
    def is_at_full_length(self) -> bool:
        """Whether it takes the steps and the sampler of the full-precision images; else it is one of fewer steps."""
        first = self.records[0]
        same: bool = first.config["baseline"]["sampler"] == first.config["sampler"]
        return same and self.baseline_steps == first.budget["num_steps"]

    @property
    def baseline_steps(self) -> int:
        """Steps of the full-precision images that this row is compared with."""
        return baseline_steps(self.records[0])

    def judged_by(self, key: str) -> bool:
        """Whether a metric says something of this row: it has a value, and not because it compares with itself."""
        return key in self.scores and not (against_full_precision(key) and self.is_full_precision)

    @property
    def low_bit(self) -> str:
        """simulated (fake quantization), executed (integers drew the images) or a dash (not quantized)."""
        if not self.records[0].quantized:
            return DASH
        return "executed" if self.ok and all(record.executed for record in self.ok) else "simulated"

    @property
    def seeds(self) -> str:
        return DASH if not self.ok else ("1 seed" if len(self.ok) == 1 else f"{len(self.ok)} seeds")

    @property
    def status(self) -> str:
        bad = [record for record in self.records if record.status != "ok"]
        if not bad:
            return "ok"
        share = f"{len(bad)} of {len(self.records)} seeds " if len(bad) < len(self.records) else ""
        return "; ".join(dict.fromkeys(f"{share}{record.status}: {record.note}" for record in bad))


def bars(rows: Sequence[Row]) -> str:
    """What a bar of a figure of these rows is, in words: see `Stat.band`."""
    several = [len(row.ok) > 1 for row in rows if row.ok]
    kinds = ["standard deviation over seeds"] if any(several) else []
    kinds += [] if all(several) else ["bootstrap interval of one seed"]
    return ", or ".join(kinds)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table, ready to be written.

    superseded: (experiment, seed, digest) of earlier runs left out of it. unmatched: keys of published rows that there
    are none of. not_run: published rows of this table for which no run stands. paper: the published values of all
    tables and plots.
    """

    name: str
    rows: tuple[Row, ...]
    metrics: tuple[Column, ...]
    superseded: tuple[tuple[str, int, str], ...]
    unmatched: tuple[str, ...]
    not_run: tuple[Mapping[str, Published], ...]
    paper: Paper

    @property
    def title(self) -> str:
        words = title_of(self.name)
        return f"{self.name}: {words}" if words else self.name

    @property
    def paper_metrics(self) -> tuple[str, ...]:
        """Published metrics that any row has: the well-known ones in a fixed order, then the others by name."""
        found = {metric for row in self.rows for metric in row.paper}
        return tuple(name for name in DIRECTION if name in found) + tuple(sorted(found - set(DIRECTION)))

    def frame(self) -> "pd.DataFrame":
        """The table as it is read: one row a configuration, every cell a string."""
        import pandas as pd

        models = {row.model for row in self.rows}
        lines = []
        for row in self.rows:
            line = {"configuration": row.label}
            if len(models) > 1:
                line["model"] = row.model
            line |= {
                "steps": _dash(row.budget["num_steps"]),
                "N": _dash(row.budget["cache_interval"]),
                "bits": row.bits,
                "low-bit arithmetic": row.low_bit,
            }
            for column in self.metrics:
                stat = row.scores.get(column.key)
                line[column.title] = DASH if stat is None else stat.text(column.decimals)
            for key, title in COSTS.items():
                line[title] = cost_text(key, row.costs.get(key))
            for metric in self.paper_metrics:
                line[f"paper {metric}"] = row.paper[metric].text if metric in row.paper else DASH
            lines.append(line | {"seeds": row.seeds, "status": row.status})
        return pd.DataFrame(lines)

    def lines(self) -> list[list[str]]:
        """The heads of `frame`, and its rows."""
        frame = self.frame()
        return [list(frame.columns), *(list(row) for row in frame.itertuples(index=False))]

    def numbers(self) -> "pd.DataFrame":
        """The table for machines: keys instead of titles, means and their bands in columns of their own."""
        import pandas as pd

        axes = dict.fromkeys(axis for row in self.rows for axis in row.settings)
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"table": self.name, "label": row.label, "model": row.model}
            line |= {key: row.budget[key] for key in ("num_steps", "cache_interval", "weight_bits", "act_bits")}
            line |= {axis: row.settings.get(axis, DASH) for axis in axes}
            line["low_bit_arithmetic"] = row.low_bit
            stats = {column.key: row.scores.get(column.key) for column in self.metrics}
            stats |= {key: row.costs.get(key) for key in COSTS}
            for key, stat in stats.items():
                line[key] = stat and stat.mean
                line[f"{key}_spread"] = stat and stat.spread
                line[f"{key}_low"] = stat and stat.low
                line[f"{key}_high"] = stat and stat.high
            for metric in self.paper_metrics:
                value, name = row.paper.get(metric), f"paper_{metric.replace(' ', '_')}"
                line[name] = value and value.value
                line[f"{name}_confidence"] = value and value.confidence
            line |= {"num_seeds": len(row.ok), "status": row.status}
            line["commits"] = " ".join(dict.fromkeys(record.commit[:12] for record in row.records))
            lines.append(line)
        return pd.DataFrame(lines).astype(object)


def _dash(value: Any) -> str:
    return DASH if value is None else str(value)
