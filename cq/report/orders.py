"""Sentences on whether the order of published rows holds here; computed from the table, never typed."""

from collections.abc import Sequence
from itertools import groupby, pairwise

from cq.report.cells import fixed
from cq.report.metrics import Column
from cq.report.paper import DIRECTION, QUALITY
from cq.report.tables import Row, Table


def order_sentences(table: Table) -> list[str]:
    """One line for each two consecutive rows that the paper compares, then one with the count for each metric.

    Rows are compared by the first of FID, CLIP, IS that the paper gives for two rows, and only where both published
    values belong to one model, data set and number of steps. No such pair: an empty list.
    """
    for metric in QUALITY:
        pairs = _pairs(table.rows, metric)
        if pairs:
            break
    else:
        return []
    lines, held, told = [], {column.key: 0 for column in table.metrics}, {column.key: 0 for column in table.metrics}
    for a, b in pairs:
        better = _better(b.paper[metric].value, a.paper[metric].value, lower=DIRECTION[metric] == "down")
        verdicts = []
        for column in table.metrics:
            if column.key not in a.scores or column.key not in b.scores:
                continue
            ours = _better(b.scores[column.key].mean, a.scores[column.key].mean, lower=column.better == "down")
            held[column.key] += ours == better
            told[column.key] += 1
            verdicts.append(f"{column.title} {_values(a, b, column)}, {_verdict(a, b, column, ours == better)}")
        missing = "; ".join(f"{row.title!r} is {row.status}" for row in (a, b) if not row.ok)
        here = "; ".join(verdicts) or f"cannot be told ({missing or 'no common metric'})"
        theirs = (a.paper[metric], b.paper[metric])
        order = f"{metric} {theirs[0].text} {_sign(theirs[0].value, theirs[1].value)} {theirs[1].text}"
        lines.append(f"{a.title} -> {b.title}. Paper: {order}. Here: {here}.")
    counts = [f"{held[c.key]} of {told[c.key]} by {c.title}" for c in table.metrics if told[c.key]]
    if counts:
        lines.append(f"The paper's order by {metric} holds here in {'; '.join(counts)}.")
    return lines


def _pairs(rows: Sequence[Row], metric: str) -> list[tuple[Row, Row]]:
    """Consecutive rows with a published value, within each published setting."""
    published = sorted((row for row in rows if metric in row.paper), key=lambda row: row.paper[metric].setting)
    return [
        pair
        for _, group in groupby(published, key=lambda row: row.paper[metric].setting)
        for pair in pairwise(group)
        if pair[0].paper[metric].row != pair[1].paper[metric].row  # variants of one published row have no order
    ]


def _better(new: float, old: float, *, lower: bool) -> int:
    """1 where `new` is better than `old`, -1 where it is worse, 0 where they are equal."""
    return 0 if new == old else (1 if (new < old) == lower else -1)


def _sign(a: float, b: float) -> str:
    return "=" if a == b else ("<" if a < b else ">")


def _values(a: Row, b: Row, column: Column) -> str:
    old, new = a.scores[column.key].mean, b.scores[column.key].mean
    return f"{fixed(old, column.decimals)} {_sign(old, new)} {fixed(new, column.decimals)}"


def _verdict(a: Row, b: Row, column: Column, holds: bool) -> str:
    (low_a, high_a), (low_b, high_b) = a.scores[column.key].band, b.scores[column.key].band
    overlap = " (within the spread)" if low_a <= high_b and low_b <= high_a else ""
    return ("holds" if holds else "does not hold") + overlap
