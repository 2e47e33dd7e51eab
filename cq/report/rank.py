"""Rows in order of one quantity, under budgets, and which of them the data can tell apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.report.cells import DASH
from cq.report.paired import Comparison, compare, rule
from cq.report.quantities import Bound, Quantity, check_one_machine, means, named
from cq.report.tables import Row, Table

if TYPE_CHECKING:
    import pandas as pd

COST = "bops_image"
ASSUMED = "psnr_fp_db"  # what rows are judged by where nobody says; else the first metric of the table
OPEN = "undecided"
LISTED = 6  # rows of those that one reason left out


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row and its rank, which rows share that are not decided against the first of it.

    value: what it is ranked by. to_best: the row against the one on the first place; None for that one itself, and for
    what is no score. shares: whether another row has this rank.
    """

    rank: int
    row: Row
    value: float
    to_best: Comparison | None
    shares: bool


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """places: best first. left_out: why, to the rows. same_seeds: whether values are means over the same seeds."""

    table: Table
    by: Quantity
    bounds: tuple[Bound, ...]
    places: tuple[Place, ...]
    left_out: Mapping[str, tuple[Row, ...]]
    same_seeds: bool

    @property
    def shown(self) -> list[Quantity]:
        """What is told of each row: what it is ranked by, its cost, and what was bounded."""
        keys = dict.fromkeys([self.by.key, COST, *(bound.quantity.key for bound in self.bounds)])
        return [named(key, self.table.metrics, key) for key in keys]

    def lines(self) -> list[list[str]]:
        """Heads and rows, as text; rank and name in the first column, `=` at a rank that several rows share."""
        heads = [
            f"{quantity.title} ({quantity.better})" if quantity.kind == "score" else quantity.title
            for quantity in self.shown
        ]
        scored = self.by.column is not None
        body = []
        for place in self.places:
            name = f"{place.rank:>2}{'=' if place.shares else '.'} {place.row.title}"
            first, *costs = [quantity.cell(place.row) for quantity in self.shown]
            body.append([name, first, *[self._to_best(place)] * scored, *costs, place.row.seeds])
        return [["rank and configuration", heads[0], *["to the best"] * scored, *heads[1:], "seeds"], *body]

    def _to_best(self, place: Place) -> str:
        found = place.to_best
        if found is None or self.by.column is None:
            return DASH
        return found.difference.text(self.by.column.decimals) + ("" if found.winner else f", {OPEN}")

    def notes(self) -> list[str]:
        counts = {place.to_best.num_seeds for place in self.places if place.to_best is not None}
        said = [
            f"Ranked by {self.by.title} ({self.by.better})."
            + ("" if self.same_seeds else " No seed is common to all rows, so that means are over different ones.")
        ]
        if self.same_seeds and not all(math.isclose(place.value, self._own_mean(place)) for place in self.places):
            said.append(
                "The order is of means over the seeds that all rows share; printed are means over each row's own."
            )
        if counts:
            said.append(
                f"`=`: rows share a rank that are not decided against the first of it; {OPEN}: against the best. "
                + rule(counts)
            )
        said += simulated([place.row for place in self.places])
        return [*said, *told(len(self.places), self.bounds, self.left_out)]

    def _own_mean(self, place: Place) -> float:
        stat = self.by.of(place.row)
        return place.value if stat is None else stat.mean

    def frame(self) -> "pd.DataFrame":
        """For machines: keys and means."""
        import pandas as pd

        return pd.DataFrame([
            {"rank": place.rank, "configuration": place.row.title}
            | {quantity.key: stat.mean if (stat := quantity.of(place.row)) else None for quantity in self.shown}
            | {"decided": None if place.to_best is None else bool(place.to_best.winner)}
            for place in self.places
        ])  # fmt: skip


def ranking(table: Table, by: str = "", under: Sequence[Bound] = ()) -> Ranking:
    """The rows of a table by the quantity `by`, those within all bounds. Raises ValueError for an unknown quantity."""
    by = by or assumed(table)
    quantity = named(by, table.metrics, f"--by {by}")
    if not quantity.better:
        raise ValueError(f"--by {by}: less of it is neither better nor worse. Rank by a score or a cost.")
    ranked, left_out = within(table.rows, [quantity], under)
    check_one_machine(ranked, quantity, f"--by {by}")
    values, same = means(ranked, quantity)
    sign = 1 if quantity.better == "down" else -1
    order = sorted(range(len(ranked)), key=lambda at: sign * values[at])
    ranks: list[int] = []
    for at, number in enumerate(order):
        first = order[ranks[-1] - 1] if ranks else number
        ranks.append(ranks[-1] if ranks and not _decided(ranked[first], ranked[number], quantity) else at + 1)
    best = ranked[order[0]] if order else None
    return Ranking(
        table=table,
        by=quantity,
        bounds=tuple(under),
        places=tuple(
            Place(
                rank=rank,
                row=ranked[number],
                value=values[number],
                to_best=compare(best, ranked[number], quantity.column)
                if best is not None and quantity.column is not None and ranked[number] is not best
                else None,
                shares=ranks.count(rank) > 1,
            )
            for rank, number in zip(ranks, order, strict=True)
        ),
        left_out=left_out,
        same_seeds=same,
    )


def assumed(table: Table) -> str:
    """The score that a table is judged by where nobody names one."""
    keys = [column.key for column in table.metrics]
    return ASSUMED if ASSUMED in keys or not keys else keys[0]


def within(
    rows: Sequence[Row], quantities: Sequence[Quantity], bounds: Sequence[Bound]
) -> tuple[list[Row], dict[str, tuple[Row, ...]]]:
    """The rows that have all quantities and keep all bounds, and why the others do not."""
    kept: list[Row] = []
    left_out: dict[str, tuple[Row, ...]] = {}
    for row in rows:
        why = _left_out(row, quantities, bounds)
        if why:
            left_out[why] = (*left_out.get(why, ()), row)
        else:
            kept.append(row)
    return kept, left_out


def told(num: int, bounds: Sequence[Bound], left_out: Mapping[str, Sequence[Row]]) -> list[str]:
    """In sentences what `within` found: num rows, under these bounds."""
    said = [f"Budget: {bound.text}." for bound in bounds]
    said += [f"{num} of {num + sum(map(len, left_out.values()))} rows are shown."] if left_out else []
    for why, rows in left_out.items():
        titles = "; ".join(row.title for row in rows[:LISTED])
        said.append(f"Left out, {why}: {titles}" + (f"; and {len(rows) - LISTED} more." if rows[LISTED:] else "."))
    return said


def simulated(rows: Sequence[Row]) -> list[str]:
    """What is to be said where a score is of fake quantization."""
    any_ = any(row.low_bit == "simulated" for row in rows)
    return ["Scores of quantized rows are simulated: under fake quantization, which is never timed."] * any_


def _left_out(row: Row, quantities: Sequence[Quantity], bounds: Sequence[Bound]) -> str:
    if not row.ok:
        return row.status
    for quantity in (*quantities, *(bound.quantity for bound in bounds)):
        stat = quantity.of(row)
        if stat is not None and math.isnan(stat.mean):
            return f"for {quantity.title} is not a number"
        if stat is None:
            if quantity.column is not None and row.is_full_precision:
                return f"for {quantity.title} compares with it"
            simulated = quantity.kind == "measured" and row.low_bit == "simulated"
            return f"without {quantity.title}" + ", for fake quantization is never timed" * simulated
    return next((f"not within {bound.text}" for bound in bounds if not bound.holds(row)), "")


def _decided(a: Row, b: Row, quantity: Quantity) -> bool:
    """Whether two rows are told apart: by the paired test of scores; costs, and what is infinite, as numbers."""
    one, other = (stat.mean if (stat := quantity.of(row)) else math.nan for row in (a, b))
    if quantity.column is None or math.isinf(one) or math.isinf(other):
        return one != other
    found = compare(a, b, quantity.column)
    return found is not None and found.winner != 0
