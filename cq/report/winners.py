"""Which schedule wins: rows that differ in nothing but their schedule, compared seed by seed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cq.report.cells import DASH, fixed
from cq.report.contexts import context_of, parts_in_words, schedule_of
from cq.report.metrics import Column, judging
from cq.report.paired import Comparison, common_means, compare, rule
from cq.report.tables import Row, Table
from cq.report.text import bullets, pipes

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = "undecided"
NOTE = (
    "In a cell: the schedule with the best mean over the seeds that all have, how far it is ahead of the next with the "
    "standard deviation of that over seeds, and the others' means in brackets; undecided where it does not beat every "
    "other. Rows of a cell differ in nothing but the schedule and the cost that it minimises; how often each runs "
    "the whole network, and so its counted cost, is in the table of all rows."
)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Rows of one budget that differ in their schedule only, the best mean first.

    others: the rest of the method in words. names, means: the schedules and their means over the seeds that all share,
    in the order of `rows`. best: the schedule that beats every other under the rule of `cq.report.paired`, or "".
    closest: the runner-up against the first row, or None where no seed of both has the metric.
    """

    column: Column
    others: str
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    means: tuple[float | None, ...]
    best: str
    closest: Comparison | None

    @property
    def text(self) -> str:
        """`best 43.45, ahead of next by 0.35 ± 0.04 (third 42.90)`, means over the seeds; `undecided: ` before it."""
        parts = []
        for row, name, mean in zip(self.rows, self.names, self.means, strict=True):
            missing = DASH if row.status == "ok" else row.status
            parts.append(f"{name} {missing if mean is None else fixed(mean, self.column.decimals)}")
        undecided = "" if self.best else f"{UNDECIDED}: "
        if self.closest is None:
            return undecided + ", ".join(parts)
        gain = self.closest.difference
        ahead = replace(gain, mean=gain.mean if self.column.better == "up" else -gain.mean).text(self.column.decimals)
        rest = f" ({', '.join(parts[2:])})" if parts[2:] else ""
        return f"{undecided}{parts[0]}, ahead of {self.names[1]} by {ahead}{rest}"


def winners(table: Table, metric: str) -> list[Contest]:
    """A contest for every group of rows that differ in nothing but their schedule; [] where there is no such group.

    Raises ValueError where the table has no such metric.
    """
    column = next((column for column in table.metrics if column.key == metric), None)
    if column is None:
        raise ValueError(f"metric={metric!r}: table {table.name!r} has {[c.key for c in table.metrics]}.")
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        if schedule_of(row.records[0]) != "none":
            groups.setdefault(context_of(row.records[0]), []).append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    words = parts_in_words([rows[0].records[0] for rows in several])
    return [_contest(column, others, rows) for others, rows in zip(words, several, strict=True)]


def winners_markdown(table: Table) -> str:
    """For each judging metric a line a method and width, a column a cache interval; "" without a contest."""
    sections: list[str] = []
    seeds: set[int] = set()
    for column in judging(table.metrics):
        found = winners(table, column.key)
        if not found:
            continue
        sections += ["", f"## By {column.title}", "", *pipes(_grid(found)), ""]
        wins = Counter(contest.best or UNDECIDED for contest in found)
        names = [name for name, _ in sorted(wins.items(), key=lambda item: (item[0] == UNDECIDED, -item[1], item[0]))]
        shares = ", ".join(f"{name} {'in' if name == UNDECIDED else 'wins'} {wins[name]}" for name in names)
        seeds |= {contest.closest.num_seeds for contest in found if contest.closest}
        sections += bullets([f"{shares} of {len(found)} comparisons."])
    if not sections:
        return ""
    closing = [NOTE, *([rule(seeds)] if seeds else [])]
    return "\n".join([f"# {table.name}: which schedule wins", *sections, "", *bullets(closing)]) + "\n"


def winners_frame(table: Table) -> "pd.DataFrame":
    """The same for machines: one line a contest, the mean of every schedule, and how far the runner-up is off."""
    import pandas as pd

    lines = []
    for column in judging(table.metrics):
        for contest in winners(table, column.key):
            first, difference = contest.rows[0], contest.closest and contest.closest.difference
            line: dict[str, Any] = {"table": table.name, "metric": column.key, "better": column.better}
            line |= {"model": first.model, "others": contest.others, **first.budget}
            line |= {"best": contest.best or UNDECIDED, "runner_up": contest.names[1]}
            line["gain"] = difference and abs(difference.mean)
            line["gain_spread"] = difference and difference.spread
            line["num_seeds"] = difference and difference.num
            line |= {f"{name}_mean": mean for name, mean in zip(contest.names, contest.means, strict=True)}
            lines.append(line)
    return pd.DataFrame(lines).astype(object)


def _contest(column: Column, others: str, rows: Sequence[Row]) -> Contest:
    sign = -1 if column.better == "up" else 1

    def place(pair: tuple[Row, float | None]) -> tuple[bool, float]:
        return (pair[1] is None, sign * (pair[1] or 0.0))

    pairs = sorted(zip(rows, common_means(rows, column.key), strict=True), key=place)
    ranked = [row for row, _ in pairs]
    names = _names(ranked)
    found = [compare(other, ranked[0], column) for other in ranked[1:]]
    beaten = [comparison is not None and comparison.winner == 1 for comparison in found]
    return Contest(
        column=column,
        others=others,
        rows=tuple(ranked),
        names=names,
        means=tuple(mean for _, mean in pairs),
        best=names[0] if all(beaten) else "",
        closest=found[0],
    )


def _names(rows: Sequence[Row]) -> tuple[str, ...]:
    """Schedules by name; by label where two have one name, such as DPS over two costs."""
    names = [schedule_of(row.records[0]) for row in rows]
    return tuple(row.label if names.count(name) > 1 else name for row, name in zip(rows, names, strict=True))


def _grid(contests: Sequence[Contest]) -> list[list[str]]:
    """Heads and cells: methods and widths down, intervals across."""
    intervals = sorted({contest.rows[0].budget["cache_interval"] for contest in contests}, key=lambda n: (n is None, n))
    models = {contest.rows[0].model for contest in contests}
    steps = {contest.rows[0].budget["num_steps"] for contest in contests}
    lines: dict[tuple[str, ...], dict[Any, str]] = {}
    for contest in contests:
        row = contest.rows[0]
        more = [row.model] * (len(models) > 1) + [str(row.budget["num_steps"])] * (len(steps) > 1)
        lines.setdefault((contest.others, row.bits, *more), {})[row.budget["cache_interval"]] = contest.text
    heads = ["all but the schedule", "bits"] + ["model"] * (len(models) > 1) + ["steps"] * (len(steps) > 1)
    heads += [DASH if interval is None else f"N = {interval}" for interval in intervals]
    body = [[*key, *(cells.get(interval, DASH) for interval in intervals)] for key, cells in lines.items()]
    return [heads, *body]
