"""Records to the rows of one table: grouped, averaged over seeds, and refused where cells do not compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cq.record import BUDGET, RunRecord, latest
from cq.report.cells import COSTS, DASH, Stat, cost_text, mean_of
from cq.report.metrics import Column, against_full_precision, columns_of
from cq.report.paper import DIRECTION, Paper, Published

if TYPE_CHECKING:
    import pandas as pd

TITLES: Mapping[str, str] = {
    "table1": "Quality as the cache interval grows",
    "table2": "Main result: caching and quantization together",
    "table3": "Diffusion transformer",
    "table4": "Text to image",
    "table5": "Ablation of the parts",
    "table6": "Quality against cost, class-conditional",
    "table7": "Quality against cost, text to image",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: the records of its seeds (`ok` are those that ran), and what they say together.

    published: what the paper says of the row that this one stands for. paper: the same where the budget is the paper's
    own, so that the two may stand side by side; else empty.
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

    @property
    def ok(self) -> tuple[RunRecord, ...]:
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def bits(self) -> str:
        weight, act = self.budget["weight_bits"], self.budget["act_bits"]
        if not self.records[0].quantized or (weight is None and act is None):
            return "32/32"
        return f"W{weight}A{act}"

    @property
    def is_full_precision(self) -> bool:
        """Whether nothing was cached or quantized: the row that metrics against full precision compare with."""
        return not self.records[0].quantized and all(
            record.counted["num_refreshes"] == record.counted["num_calls"] for record in self.ok
        )

    def judged_by(self, key: str) -> bool:
        """Whether a metric says something of this row: it has a value, and not because it compares with itself."""
        return key in self.scores and not (against_full_precision(key) and self.is_full_precision)

    @property
    def low_bit(self) -> str:
        """simulated (fake quantization), measured (real low-bit kernels were timed) or a dash (not quantized)."""
        if not self.records[0].quantized:
            return DASH
        return "measured" if self.ok and all(record.measured is not None for record in self.ok) else "simulated"

    @property
    def seeds(self) -> str:
        return DASH if not self.ok else ("1 seed" if len(self.ok) == 1 else f"{len(self.ok)} seeds")

    @property
    def status(self) -> str:
        bad = [record for record in self.records if record.status != "ok"]
        if not bad:
            return "ok"
        share = f"{len(bad)} of {len(self.records)} seeds " if self.ok else ""
        return "; ".join(dict.fromkeys(f"{share}{record.status}: {record.note}" for record in bad))


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table, ready to be written. superseded: (experiment, seed, digest) of earlier runs left out of it."""

    name: str
    rows: tuple[Row, ...]
    metrics: tuple[Column, ...]
    superseded: tuple[tuple[str, int, str], ...]
    unmatched: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.name}: {TITLES[self.name]}" if self.name in TITLES else self.name

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

    def numbers(self) -> "pd.DataFrame":
        """The table for machines: keys instead of titles, means and their bands in columns of their own."""
        import pandas as pd

        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"table": self.name, "label": row.label, "model": row.model}
            line |= {key: row.budget[key] for key in ("num_steps", "cache_interval", "weight_bits", "act_bits")}
            line["low_bit_arithmetic"] = row.low_bit
            stats = {column.key: row.scores.get(column.key) for column in self.metrics}
            stats |= {key: row.costs.get(key) for key in COSTS}
            for key, stat in stats.items():
                line[key] = stat and stat.mean
                line[f"{key}_spread"] = stat and stat.spread
                line[f"{key}_low"] = stat and stat.low
                line[f"{key}_high"] = stat and stat.high
            for metric in self.paper_metrics:
                line[f"paper_{metric.replace(' ', '_')}"] = row.paper[metric].value if metric in row.paper else None
            line |= {"num_seeds": len(row.ok), "status": row.status}
            line["commits"] = " ".join(dict.fromkeys(record.commit[:12] for record in row.records))
            lines.append(line)
        return pd.DataFrame(lines).astype(object)


def build_table(name: str, records: Sequence[RunRecord], paper: Paper) -> Table:
    """The table `name`: one row a (label, model, budget), in the order of the records' `row`.

    Later records replace earlier ones of the same experiment and seed. Where those asked the same question (equal
    config digest) silently; where the configuration changed in between, the earlier run is listed as superseded.
    Raises ValueError where no record names the table, or where a metric's cells were not all measured alike.
    """
    mine = [record for record in latest(records) if record.table == name]
    if not mine:
        known = sorted({record.table for record in records})
        raise ValueError(
            f"table={name!r}: no record belongs to it; there are records for {known or 'no table at all'}. "
            "Run its experiments first, or name another table or record file."
        )
    by_seed: dict[tuple[Any, ...], RunRecord] = {}
    superseded = []
    order = {record.key: place for place, record in enumerate(records)}  # place of the last record of a key
    for record in sorted(mine, key=lambda record: order[record.key]):
        asked = (record.experiment, record.seed, *_budget(record))
        earlier = by_seed.pop(asked, None)
        if earlier is not None:
            superseded.append(earlier.key)
        by_seed[asked] = record
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in sorted(by_seed.values(), key=_place):
        group = (record.label, record.model["name"], *_budget(record))
        groups.setdefault(group, []).append(record)
    for members in groups.values():
        _one_record_a_seed(members)
    metrics = columns_of([record for members in groups.values() for record in members])
    rows, unmatched = [], []
    spread = {
        key: {members[0].budget[key] for members in groups.values() if members[0].budget[key] is not None}
        for key in BUDGET
    }
    named = titles([(label, model, members[0].budget) for (label, model, *_), members in groups.items()])
    for title, members in zip(named, groups.values(), strict=True):
        ok = [record for record in members if record.status == "ok"]
        first = members[0]
        published = paper.find(name, first.paper_row)
        if published is None:
            unmatched.append(first.paper_row)
        published = published or {}
        beside = all(value.setting_is(first.budget, spread) for value in published.values())
        rows.append(
            Row(
                label=first.label,
                title=title,
                budget=first.budget,
                model=first.model["name"],
                records=tuple(members),
                scores={column.key: stat for column in metrics if (stat := _score(ok, column.key)) is not None},
                costs={key: stat for key in COSTS if (stat := _cost(ok, key)) is not None},
                published=published,
                paper=published if beside else {},  # else the paper's number belongs to another row of this table
            )
        )
    return Table(
        name=name,
        rows=tuple(rows),
        metrics=tuple(metrics),
        superseded=tuple(sorted(superseded)),
        unmatched=tuple(dict.fromkeys(unmatched)),
    )


def _budget(record: RunRecord) -> tuple[Any, ...]:
    return tuple(record.budget[key] for key in sorted(record.budget))


def _place(record: RunRecord) -> tuple[Any, ...]:
    """Full precision first, then from many bits to few, from short intervals to long, then as the experiment says."""
    bits, interval = record.budget["weight_bits"], record.budget["cache_interval"]
    return (-(bits or 99), interval or 0, record.row, record.experiment, record.seed)


def _dash(value: Any) -> str:
    return DASH if value is None else str(value)


def _one_record_a_seed(members: Sequence[RunRecord]) -> None:
    seen: dict[int, RunRecord] = {}
    for record in members:
        if record.seed in seen:
            raise ValueError(
                f"seed={record.seed} of row {record.label!r}: both {seen[record.seed].experiment!r} and "
                f"{record.experiment!r} claim it, so their mean would count one seed twice. Give the two experiments "
                "different labels or budgets."
            )
        seen[record.seed] = record


def titles(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """Of each (label, model, budget) the label, with as much of the rest as tells rows of one label apart.

    For figures and sentences, which have no columns.
    """
    found = []
    for label, model, budget in rows:
        twins = [other for other in rows if other[0] == label]
        title = label
        if len({(twin["weight_bits"], twin["act_bits"]) for _, _, twin in twins}) > 1:
            title += f", W{budget['weight_bits']}A{budget['act_bits']}"
        for key, sign in (("cache_interval", "N="), ("num_steps", "T=")):
            if len({twin[key] for _, _, twin in twins}) > 1:
                title += f", {sign}{budget[key]}"
        found.append(title + (f", {model}" if len({twin[1] for twin in twins}) > 1 else ""))
    return found


def _score(ok: Sequence[RunRecord], key: str) -> Stat | None:
    found = [record.scores[key] for record in ok if key in record.scores and record.scores[key]["value"] is not None]
    if not found:
        return None
    return mean_of([float(score["value"]) for score in found], low=found[0]["low"], high=found[0]["high"])


def _cost(ok: Sequence[RunRecord], key: str) -> Stat | None:
    sources = [record.counted if key in record.counted else (record.measured or {}) for record in ok]
    found = [float(source[key]) for source in sources if source.get(key) is not None]
    return mean_of(found) if found else None
