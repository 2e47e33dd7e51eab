"""Rows of one budget: what a figure draws of a table that has several, and what may be compared pair by pair."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cq.report.build import titles
from cq.report.tables import Row

# Numbers of a budget in the order in which they are settled, each at its largest value: the cache interval first,
# for at the longest one the parts of a method differ most.
LARGEST = ("cache_interval", "weight_bits", "act_bits", "num_steps")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Rows of one budget, titled anew. name: the numbers that were settled, such as "N = 20, W8A8", or ""."""

    rows: tuple[Row, ...]
    name: str

    def titled(self, title: str) -> str:
        return f"{title} ({self.name})" if self.name else title


def choose(rows: Sequence[Row]) -> Chosen:
    """The rows at the largest value of every number that was swept, model by model, and those that do not read it.

    Swept is what one experiment was run with several values of; bits that set rows apart, as in a main table, stay.
    Where all rows stay, their titles stay too.
    """
    kept: list[Row] = []
    names: dict[str, str] = {}
    for model in dict.fromkeys(row.model for row in rows):
        mine, settled = [row for row in rows if row.model == model], {}
        for key in LARGEST:
            values: dict[str, set[int]] = {}
            for row in mine:
                if row.budget[key] is not None:
                    values.setdefault(row.records[0].experiment, set()).add(row.budget[key])
            if any(len(found) > 1 for found in values.values()):
                settled[key] = max(set.union(*values.values()))
                mine = [row for row in mine if row.budget[key] in (None, settled[key])]
        kept += mine
        names[model] = budget_name(mine, tuple(settled))
    alike = set(names.values())
    name = alike.pop() if len(alike) == 1 else "; ".join(f"{model}: {name}" for model, name in names.items() if name)
    shown = [row for row in rows if any(row is other for other in kept)]
    if len(shown) == len(rows):
        return Chosen(rows=tuple(rows), name="")
    again = titles([(row.label, row.model, row.budget) for row in shown])
    return Chosen(rows=tuple(replace(row, title=title) for row, title in zip(shown, again, strict=True)), name=name)


def budget_name(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """The numbers `keys` of these rows in words; both widths are named where either is."""
    parts = []
    for key, sign in (("num_steps", "T"), ("cache_interval", "N")):
        values = sorted({row.budget[key] for row in rows if row.budget[key] is not None})
        if key in keys and values:
            parts.append(f"{sign} = {', '.join(map(str, values))}")
    if "weight_bits" in keys or "act_bits" in keys:
        parts += sorted({row.bits for row in rows if row.budget["weight_bits"] is not None})
    return ", ".join(parts)
