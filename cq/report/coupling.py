"""Each technique alone and combined: what caching and quantization lose, and whether both lose more than their sum.

Figure 3 of the paper. Rows are found by what they are: one is neither cached nor quantized, one is either, one is both,
nothing is corrected in any, and what two of them share they share in all settings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cq.report.cells import Stat, mean_of
from cq.report.contexts import NONE, schedule_of
from cq.report.metrics import Column, against_full_precision
from cq.report.paired import by_seed, decided, rule
from cq.report.paper import Paper, Published
from cq.report.tables import Row, Table
from cq.report.text import bullets, pipes
from cq.run.record import BUDGET

if TYPE_CHECKING:
    import pandas as pd

PAPER = "figure3"
FIDELITY = "latent_error_fp"
CORRECTIONS = ("correct_cache", "correct_quant", "correct_output")
CACHING = ("schedule", "cost", "cache", "predict")  # choices that decide what is reused when
SHARED = ("sampler", "sample")  # choices in which all four rows agree
PARTS = ("quantization alone", "caching alone", "sum of the two", "both, plainly combined")
VERDICTS = {1: "more than the sum", -1: "less than the sum", 0: "undecided"}
NOTE = (
    "Loss: by a metric against the data, how much worse than full precision, which may be below zero; by the error "
    "against full precision, that error. Errors that know nothing of each other add up in squares, to less than their "
    "sum."
)
MOOT = (
    "In {} of these one technique alone loses nothing that is decided, or gains: there 'more than the sum' does not "
    "mean that errors feed each other."
)


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """Four rows of one budget. schedule: of the two that are cached. published: of the three that lose, or ()."""

    schedule: str
    exact: Row
    quantized: Row
    cached: Row
    both: Row
    published: tuple[Published, ...]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What each of `PARTS` loses by one metric, over the seeds that all rows share.

    excess: both less the sum. verdict: its sign where that is decided by the rule of `cq.report.paired`, else 0.
    each_loses: whether either technique alone decidedly loses anything.
    per_seed: the losses of each part, seed by seed.
    """

    column: Column
    per_seed: tuple[tuple[float, ...], ...]
    excess: Stat
    verdict: int
    each_loses: bool

    @property
    def stats(self) -> tuple[Stat, ...]:
        return tuple(map(mean_of, self.per_seed))


def couplings(rows: Sequence[Row], paper: Paper) -> list[Coupling]:
    """One for every plainly combined row whose parts are among `rows` too."""
    plain = [row for row in rows if row.ok and all(row.records[0].choices.get(key) in NONE for key in CORRECTIONS)]
    found = []
    for both in plain:
        if not (_cached(both) and both.records[0].quantized):
            continue
        steps = ("num_steps",)
        exact = _partner(both, plain, lambda row: row.is_full_precision, (), steps)
        quantized = _partner(
            both, plain, lambda row: row.records[0].quantized and not _cached(row), ("quantize",),
            (*steps, "weight_bits", "act_bits"),
        )  # fmt: skip
        cached = _partner(
            both, plain, lambda row: _cached(row) and not row.records[0].quantized, CACHING, (*steps, "cache_interval")
        )
        if exact and quantized and cached:
            keys = [row.records[0].paper_row for row in (quantized, cached, both)]
            values = [v for key in keys if "/" not in key for v in (paper.find(PAPER, key) or {}).values()]
            found.append(
                Coupling(
                    schedule=schedule_of(both.records[0]), exact=exact, quantized=quantized, cached=cached, both=both,
                    published=tuple(values) if len(values) == len(keys) else (),
                )
            )  # fmt: skip
    return _told_apart(found)


def _told_apart(found: Sequence[Coupling]) -> list[Coupling]:
    """Named by their cache strategy, too, where there are several."""
    caches = [str(coupling.both.records[0].choices["cache"]) for coupling in found]
    if len(set(caches)) < 2:
        return list(found)
    return [replace(c, schedule=f"{c.schedule}, {cache}") for c, cache in zip(found, caches, strict=True)]


def loss_columns(table: Table) -> list[Column]:
    """The table's first metric where it is one against the data, and the error against full precision."""
    first = [column for column in table.metrics[:1] if not against_full_precision(column.key)]
    return first + [column for column in table.metrics if column.key == FIDELITY]


def losses(coupling: Coupling, column: Column) -> Losses | None:
    """None where no seed of all rows has the metric."""
    rows = [coupling.quantized, coupling.cached, coupling.both]
    sign = -1 if column.better == "up" else 1
    values = [by_seed(row, column.key) for row in rows]
    if against_full_precision(column.key):
        zero = dict.fromkeys(set.intersection(*map(set, values)), 0.0)
    else:
        zero = by_seed(coupling.exact, column.key)
    seeds = sorted(set.intersection(*map(set, [*values, zero])))
    if not seeds:
        return None
    alone, other, both = (tuple(sign * (found[seed] - zero[seed]) for seed in seeds) for found in values)
    total = tuple(map(math.fsum, zip(alone, other, strict=True)))
    excess = [b - s for b, s in zip(both, total, strict=True)]
    return Losses(
        column=column, per_seed=(alone, other, total, both), excess=mean_of(excess), verdict=decided(excess),
        each_loses=decided(alone) == decided(other) == 1,
    )  # fmt: skip


def coupling_markdown(table: Table) -> str:
    """For each metric a line a budget and schedule, and the paper's numbers below; "" without such rows."""
    found = couplings(table.rows, table.paper)
    sections: list[str] = []
    seeds: set[int] = set()
    for column in loss_columns(table):
        lines, tally, moot = [], [], 0
        for coupling in found:
            loss = losses(coupling, column)
            if loss is not None:
                excess = ("+" if loss.excess.mean > 0 else "") + loss.excess.text(column.decimals)
                stats = [stat.text(column.decimals) for stat in loss.stats]
                lines.append([*_budget(coupling), *stats, excess, VERDICTS[loss.verdict]])
                tally.append(loss.verdict)
                moot += not loss.each_loses
                seeds.add(loss.excess.num)
        if lines:
            heads = ["schedule", "model", "steps", "N", "bits", *PARTS, "both - sum", "verdict"]
            shares = ", ".join(f"{words} in {tally.count(sign)}" for sign, words in VERDICTS.items())
            sections += ["", f"## Loss by {column.title}", "", *pipes([heads, *lines]), ""]
            sections += bullets([f"Both lose {shares} of {len(tally)}.", *([MOOT.format(moot)] if moot else [])])
    if not sections:
        return ""
    notes = [NOTE, rule(seeds), *_in_the_paper(found)]
    return "\n".join([f"# {table.name}: each technique alone and combined", *sections, "", *bullets(notes)]) + "\n"


def coupling_frame(table: Table) -> "pd.DataFrame":
    """The same for machines: one line a metric, budget and schedule."""
    import pandas as pd

    names = ("quantization", "caching", "sum", "both")
    lines = []
    for column in loss_columns(table):
        for coupling in couplings(table.rows, table.paper):
            loss = losses(coupling, column)
            if loss is None:
                continue
            line: dict[str, Any] = {"table": table.name, "metric": column.key, "schedule": coupling.schedule}
            line |= {"model": coupling.both.model, **{key: coupling.both.budget[key] for key in BUDGET}}
            for name, stat in zip(names, loss.stats, strict=True):
                line |= {f"{name}_loss": stat.mean, f"{name}_loss_spread": stat.spread}
            line |= {"excess": loss.excess.mean, "excess_spread": loss.excess.spread, "num_seeds": loss.excess.num}
            line["verdict"] = VERDICTS[loss.verdict]
            lines.append(line)
    return pd.DataFrame(lines).astype(object)


def published_losses(found: Sequence[Coupling]) -> tuple[Published, ...]:
    """The paper's three losses, of the first coupling that stands for them; () without."""
    return next((coupling.published for coupling in found if coupling.published), ())


def published_setting(values: Sequence[Published]) -> str:
    """Model, data and budget of the paper's combined row."""
    budget = values[-1].budget
    return f"{values[-1].setting}, N = {budget['cache_interval']}, W{budget['weight_bits']}A{budget['act_bits']}"


def _in_the_paper(found: Sequence[Coupling]) -> list[str]:
    values = published_losses(found)
    if not values:
        return []
    alone, other, both = values
    return [
        f"In the paper ({published_setting(values)}; {both.source}): {alone.metric} {alone.text} by {alone.method}, "
        f"{other.text} by {other.method}, together {alone.value + other.value:.2f}; {both.text} by {both.method}. "
        "Its metric, model and data are others: only the order compares."
    ]


def _cached(row: Row) -> bool:
    return any(record.counted["num_refreshes"] < record.counted["num_calls"] for record in row.ok)


def _alike(a: Row, b: Row, keys: Sequence[str]) -> bool:
    """Whether they made these choices alike, and configured them alike."""
    one, other = a.records[0], b.records[0]
    return all(
        one.choices.get(key) == other.choices.get(key) and one.config.get(key) == other.config.get(key) for key in keys
    )


def _partner(
    both: Row, rows: Sequence[Row], kind: Callable[[Row], bool], choices: Sequence[str], budget: Sequence[str]
) -> Row | None:
    """The first row of a kind that shares the model, these choices and these numbers of the budget."""
    keys = (*SHARED, *choices)
    for row in rows:
        fits = row.model == both.model and all(row.budget[key] == both.budget[key] for key in budget)
        if fits and kind(row) and _alike(row, both, keys):
            return row
    return None


def _budget(coupling: Coupling) -> list[str]:
    budget = coupling.both.budget
    return [
        coupling.schedule, coupling.both.model, str(budget["num_steps"]), str(budget["cache_interval"]),
        coupling.both.bits,
    ]  # fmt: skip
