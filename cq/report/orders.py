"""Sentences on whether the order of published rows holds here; computed from the records, never typed."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cq.report.budgets import budget_name
from cq.report.metrics import Column, judging
from cq.report.paired import compare, rule
from cq.report.paper import DIRECTION, QUALITY, Published
from cq.report.tables import Row, Table
from cq.run.record import BUDGET

VERDICTS = {1: "holds", -1: "is reversed", 0: "is undecided"}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Pairs of rows that the paper orders by `metric`. name: their budget, where the table has several."""

    name: str
    metric: str
    pairs: tuple[tuple[Row, Row], ...]


def order_sentences(table: Table) -> list[tuple[str, list[str]]]:
    """Sections of (heading, sentences): the rule, then for each judging metric a line a budget and their count.

    Within one budget every row stands for its published row, whatever budget that was published at; across budgets
    only rows at the published budget do. Compared by the first of FID, CLIP, IS that the paper gives for two rows.
    No such pair: an empty list.
    """
    within, across = _chains(table, _within), _chains(table, _across)
    sections, seeds = [], set()
    for column in judging(table.metrics):
        tally: Counter[int] = Counter()
        lines = [_sentence(chain, column, tally) for chain in within]
        if told := tally.total():
            shares = ", ".join(f"{words} in {tally[verdict]}" for verdict, words in VERDICTS.items())
            of = f"{told} comparison{'s' * (told != 1)}"
            lines.append(f"Within one budget the paper's order {shares} of {of}.")
        lines += [_sentence(chain, column, Counter()) for chain in across]
        pairs = [pair for chain in (*within, *across) for pair in chain.pairs]
        seeds |= {found.num_seeds for a, b in pairs if (found := compare(a, b, column))}
        if any(lines):
            sections.append((f"By {column.title}", list(filter(None, lines))))
    if not sections:
        return []
    first = [f"{rule(seeds)} Differences are written mean ± that deviation."] if seeds else []
    if budgets := {_published_budget(row, chain.metric) for chain in within for pair in chain.pairs for row in pair}:
        asked = "; here it is asked of every budget" * (len(within) > 1)
        first.append(f"The paper's order is that of {'; '.join(sorted(budgets))}{asked}.")
    return [("", first), *sections]


def _chains(table: Table, find: Callable[[Table, str], list[Chain]]) -> list[Chain]:
    for metric in QUALITY:
        found = [chain for chain in find(table, metric) if chain.pairs]
        if found:
            return found
    return []


def _within(table: Table, metric: str) -> list[Chain]:
    """Consecutive rows of one model, budget and published setting."""
    varied = [key for key in BUDGET if len({row.budget[key] for row in table.rows} - {None}) > 1]
    models = {row.model for row in table.rows}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        if metric in row.published:
            key = (row.model, *(row.budget[key] for key in BUDGET), row.published[metric].setting)
            groups.setdefault(key, []).append(row)
    chains = []
    for rows in groups.values():
        name = ", ".join(filter(None, [budget_name(rows, varied)] + [rows[0].model] * (len(models) > 1)))
        pairs = [(a, b) for a, b in pairwise(rows) if _ordered(a.published, b.published, metric)]
        chains.append(Chain(name=name, metric=metric, pairs=tuple(pairs)))
    return chains


def _across(table: Table, metric: str) -> list[Chain]:
    """Consecutive rows of one model and published setting at the published budgets, where these differ."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        if metric in row.paper:
            groups.setdefault((row.model, row.paper[metric].setting), []).append(row)
    pairs = [
        (a, b)
        for rows in groups.values()
        for a, b in pairwise(rows)
        if dict(a.budget) != dict(b.budget) and _ordered(a.paper, b.paper, metric)
    ]
    return [Chain(name="Across budgets", metric=metric, pairs=tuple(pairs))]


def _ordered(a: Mapping[str, Published], b: Mapping[str, Published], metric: str) -> bool:
    """Whether the paper says which is better; variants of one published row have no order."""
    return a[metric].row != b[metric].row and a[metric].value != b[metric].value


def _published_budget(row: Row, metric: str) -> str:
    value = row.published[metric]
    signs = {"num_steps": "T", "cache_interval": "N"}
    words = [f"{sign} = {value.budget[key]}" for key, sign in signs.items() if key in value.budget]
    bits = f"W{value.budget.get('weight_bits', '?')}A{value.budget.get('act_bits', '?')}"
    return ", ".join([*words, bits, value.setting.partition(",")[0]])


def _sentence(chain: Chain, column: Column, tally: Counter[int]) -> str:
    """ "" where the metric says nothing of the chain; `tally` counts the verdicts."""
    found, seeds = [], set()
    for a, b in chain.pairs:
        theirs = (a.published[chain.metric], b.published[chain.metric])
        lower = theirs[1].value < theirs[0].value
        expected = 1 if lower == (DIRECTION[chain.metric] == "down") else -1
        ours = compare(a, b, column)
        paper = f"paper: {chain.metric} {theirs[0].text} {'>' if lower else '<'} {theirs[1].text}"
        if ours is None and a.ok and b.ok and not (a.judged_by(column.key) and b.judged_by(column.key)):
            continue  # the metric was not taken, or compares one of them with itself
        if ours is None:
            missing = "; ".join(f"{row.label!r} is {row.status}" for row in (a, b) if not row.ok)
            why = missing or "no seed of both has the metric"
            found.append(f"{a.label} -> {b.label} cannot be told ({paper}; here: {why})")
            continue
        verdict = ours.winner * expected
        tally[verdict] += 1
        seeds.add(ours.num_seeds)
        here = f"here: {ours.text(column.decimals)}"
        found.append(f"{a.label} -> {b.label} {VERDICTS[verdict]} ({paper}; {here})")
    if not found:
        return ""
    start = [chain.name] * bool(chain.name)
    if seeds:
        start.append(f"{'/'.join(map(str, sorted(seeds)))} seed{'s' * (seeds != {1})}")
    return f"{', '.join(start)}{': ' * bool(start)}{'; '.join(found)}."
