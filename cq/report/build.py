"""Records to the rows of one table: grouped, averaged over seeds, and refused where cells do not compare."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cq.report.axes import Axis, axes_of, cell_of, name_of, question_of
from cq.report.cells import COSTS, Stat, mean_of
from cq.report.making import preparation
from cq.report.metrics import Column, columns_of
from cq.report.paper import Paper
from cq.report.tables import Row, Table, baseline_steps
from cq.run.labels import UNNAMED
from cq.run.record import BUDGET, RunRecord, latest

Groups = dict[tuple[Any, ...], list[RunRecord]]


def build_tables(name: str, records: Sequence[RunRecord], paper: Paper) -> list[Table]:
    """The table `name`, or one a model, `<name>_<model>`, where models were measured apart.

    Every model is compared with its own full-precision images, so two of them seldom may share a column. Single runs,
    which no table file has put together, are also parted where their protocols differ. Raises ValueError as
    `build_table`.
    """
    mine = [record for record in latest(records) if record.table == name]
    parts = _parted({name: mine}, by_model=True)
    if mine and all(record.label == UNNAMED for record in mine):
        parts = _parted(parts, by_model=False)
    if len(parts) < 2:
        return [build_table(name, records, paper)]
    not_run = tuple(paper.unused(name, {record.paper_row for record in mine}))
    tables = []
    for part, members in parts.items():
        kept = {id(record) for record in members}
        own = [record for record in records if record.table != name or id(record) in kept]
        tables.append(replace(build_table(name, own, paper), name=part, not_run=not_run))
    return tables


def _parted(parts: Mapping[str, Sequence[RunRecord]], *, by_model: bool) -> dict[str, list[RunRecord]]:
    """Name to records, each part split where a metric of its records was not measured alike: by model, or greedily."""
    found: dict[str, list[RunRecord]] = {}
    for name, mine in parts.items():
        groups: list[tuple[dict[str, str], list[RunRecord]]] = []
        for record in sorted(mine, key=lambda record: record.row):
            prints = {key: score["fingerprint"] for key, score in record.scores.items()}
            for shared, members in groups:
                same = record.model["name"] == members[0].model["name"]
                if same if by_model else all(shared.get(key, value) == value for key, value in prints.items()):
                    shared.update(prints)
                    members.append(record)
                    break
            else:
                groups.append((prints, [record]))
        measured = {(key, score["fingerprint"]) for record in mine for key, score in record.scores.items()}
        if len(groups) < 2 or len(measured) == len({key for key, _ in measured}):
            found[name] = list(mine)
            continue
        firsts = [members[0] for _, members in groups]
        axes = [axis for axis in axes_of(firsts) if all(len(set(map(axis.of, m))) == 1 for _, m in groups)]
        for number, first in enumerate(firsts):
            words = first.model["name"] if by_model else "_".join(re.sub(r"\W+", "-", axis.of(first)) for axis in axes)
            part = f"{name}_{words or number}"
            found[part if part not in found else f"{part}_{number}"] = groups[number][1]
    return found


def build_table(name: str, records: Sequence[RunRecord], paper: Paper) -> Table:
    """The table `name`: one row a (label, model, budget), in the order of the records' `row`.

    Later records replace earlier ones of the same experiment and seed. Where those asked the same question (equal
    config digest) silently; where the configuration changed in between, the earlier run is listed as superseded.
    Raises ValueError where no record names the table, or where a metric's cells were not all measured alike.
    """
    mine = _newest(name, records)
    if not mine:
        known = sorted({record.table for record in records})
        raise ValueError(
            f"table={name!r}: no record belongs to it; there are records for {known or 'no table at all'}. "
            "Run its experiments first, or name another table or record file."
        )
    groups, named, superseded = _grouped(mine)
    for members in groups.values():
        _one_record_a_seed(members)
    metrics = columns_of([record for members in groups.values() for record in members])
    rows, unmatched = [], []
    budgets = [_beside(members[0]) for members in groups.values()]
    spread = {key: {budget[key] for budget in budgets if budget[key] is not None} for key in BUDGET}
    for title, budget, ((label, *_), members) in zip(_titles(groups), budgets, groups.items(), strict=True):
        ok = [record for record in members if record.drawn]
        first = members[0]
        published = paper.find(name, first.paper_row)
        if published is None:
            unmatched.append(first.paper_row)
        published = published or {}
        beside = all(value.setting_is(budget, spread) for value in published.values())
        rows.append(
            Row(
                label=label,
                title=title,
                budget=first.budget,
                model=first.model["name"],
                records=tuple(members),
                scores=_scores(ok, metrics),
                costs=_costs(ok),
                published=published,
                paper=published if beside else {},  # else the paper's number belongs to another row of this table
                preparation=preparation(ok),
                settings=named[id(first)][1],
            )
        )
    return Table(
        name=name,
        rows=tuple(rows),
        metrics=tuple(metrics),
        superseded=tuple(sorted(superseded)),
        unmatched=tuple(dict.fromkeys(unmatched)),
        not_run=tuple(paper.unused(name, {row.records[0].paper_row for row in rows})),
        paper=paper,
    )


def row_titles(records: Sequence[RunRecord]) -> dict[int, str]:
    """Of each record (by id) that stands in a row of its table, the title of that row."""
    found: dict[int, str] = {}
    for table in dict.fromkeys(record.table for record in records):
        groups, *_ = _grouped(_newest(table, records))
        for title, members in zip(_titles(groups), groups.values(), strict=True):
            found |= dict.fromkeys(map(id, members), title)
    return found


def bare_row(title: str, members: Sequence[RunRecord], metrics: Sequence[Column]) -> Row:
    """The runs of one configuration as a row that stands in no table, beside nothing published."""
    ok = [record for record in members if record.drawn]
    return Row(
        label=members[0].label,
        title=title,
        budget=members[0].budget,
        model=members[0].model["name"],
        records=tuple(members),
        scores=_scores(ok, metrics),
        costs=_costs(ok),
        published={},
        paper={},
        preparation=None,
    )


def _newest(name: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Of each question about the table `name` the last record, oldest first."""
    kept = {id(record) for record in latest(records) if record.table == name}
    return [record for record in records if id(record) in kept]


def _titles(groups: Groups) -> list[str]:
    return titles([(label, model, members[0].budget) for (label, model, *_), members in groups.items()])


def _grouped(
    mine: Sequence[RunRecord],
) -> tuple[Groups, dict[int, tuple[str, dict[str, str]]], list[tuple[str, int, str]]]:
    """The rows of one table's records, oldest first, by label, model, budget and cell; `_named`; superseded."""
    cells = _cells(mine)
    by_seed: dict[tuple[Any, ...], RunRecord] = {}
    superseded = []
    for record in mine:
        asked = (record.experiment, record.model["name"], record.seed, *_budget(record), cells[id(record)])
        earlier = by_seed.pop(asked, None)
        if earlier is not None:
            superseded.append(earlier.key)
        by_seed[asked] = record
    asked_now = {(asked[:2], asked[3:]): question_of(record) for asked, record in by_seed.items()}
    standing = []
    for asked, record in by_seed.items():  # seeds of a row answer one question: of an edited one those of before go
        if question_of(record) == asked_now[asked[:2], asked[3:]]:
            standing.append(record)
        else:
            superseded.append(record.key)
    named = _named(standing, cells)
    groups: Groups = {}
    for record in sorted(standing, key=_place):
        group = (named[id(record)][0], record.model["name"], *_budget(record), cells[id(record)])
        groups.setdefault(group, []).append(record)
    return groups, named, superseded


def _cells(mine: Sequence[RunRecord]) -> dict[int, str]:
    """Of each record (by id) its cell; records of one question are of one, whatever the command line said."""
    first: dict[tuple[str, str], str] = {}
    return {id(record): first.setdefault((record.label, question_of(record)), cell_of(record)) for record in mine}


def _named(mine: Sequence[RunRecord], cells: Mapping[int, str]) -> dict[int, tuple[str, dict[str, str]]]:
    """Of each record (by id) its label, with what tells cells of one label and budget apart, and that by axis."""
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for label in dict.fromkeys(record.label for record in mine):
        own = [record for record in mine if record.label == label]
        rows = {(record.model["name"], *_budget(record)) for record in own}
        axes: Sequence[Axis] = ()
        if label == UNNAMED or len({(cells[id(r)], r.model["name"], *_budget(r)) for r in own}) > len(rows):
            axes = [axis for axis in axes_of(own) if axis.kind != "number" and axis.key != "model"]
        for record in own:
            name = name_of(record, axes)
            words = filter(None, [label * (label != UNNAMED or not name), name])
            found[id(record)] = (", ".join(words), {axis.title: axis.of(record) for axis in axes})
    return found


def _budget(record: RunRecord) -> tuple[Any, ...]:
    return tuple(record.budget[key] for key in sorted(record.budget))


def _beside(record: RunRecord) -> dict[str, Any]:
    """The budget by which a published value is matched: rows of fewer steps stand in a table of their baseline's."""
    return {**record.budget, "num_steps": baseline_steps(record)}


def _place(record: RunRecord) -> tuple[Any, ...]:
    """Full precision first, then from many bits to few, from short intervals to long, then as the experiment says."""
    bits, interval = record.budget["weight_bits"], record.budget["cache_interval"]
    return (-(bits or 99), interval or 0, record.row, record.experiment, record.seed)


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


def _scores(ok: Sequence[RunRecord], metrics: Sequence[Column]) -> dict[str, Stat]:
    return {column.key: stat for column in metrics if (stat := _score(ok, column.key)) is not None}


def _costs(ok: Sequence[RunRecord]) -> dict[str, Stat]:
    return {key: stat for key in COSTS if (stat := _cost(ok, key)) is not None}


def _score(ok: Sequence[RunRecord], key: str) -> Stat | None:
    found = [record.scores[key] for record in ok if key in record.scores and record.scores[key]["value"] is not None]
    if not found:
        return None
    return mean_of([float(score["value"]) for score in found], low=found[0]["low"], high=found[0]["high"])


def _cost(ok: Sequence[RunRecord], key: str) -> Stat | None:
    sources = [record.counted if key in record.counted else (record.measured or {}) for record in ok]
    found = [float(source[key]) for source in sources if source.get(key) is not None]
    return mean_of(found) if found else None
