"""A sweep as one page of HTML: all its cells, the trade-off, schedules, images, and what each axis does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cq.report import html
from cq.report.axes import OFF
from cq.report.budgets import Chosen, budget_name
from cq.report.cells import COSTS, DASH, cost_text
from cq.report.figures import ERRORS, SCHEDULES, error_figure, image_figure, schedule_figure
from cq.report.html import Html, paragraph, section
from cq.report.looks import PALETTE, Looks, looks_of, new_figure, style, wrapped
from cq.report.metrics import Column, judging
from cq.report.pareto import table_front
from cq.report.pareto_figure import pareto_figure
from cq.report.quantities import named
from cq.report.rank import COST, assumed
from cq.report.signatures import of_record
from cq.report.sweeps import tradeoff_figure
from cq.report.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS: Mapping[str, str] = {
    "num_steps": "steps", "cache_interval": "N", "weight_bits": "weight bits", "act_bits": "activation bits",
}  # fmt: skip
PARETO = "Numbered and joined: cells that no other beats in both. The cost is counted, so no time follows from it."
DRAWN = 40  # rows of one figure: more would be taller than a page


def sweep_page(table: Table, pages: Callable[[Row], str]) -> str:
    """The page of a table. pages: the link to a row's own page, "" where it has none."""
    looks = looks_of(table.rows)
    shown = Chosen(rows=table.rows[:DRAWN], name="")
    figures: dict[str, Callable[[], Iterator[Html]]] = {
        "Quality against cost": lambda: _tradeoff(table, looks),
        "What each axis does": lambda: _effects(table),
        "Schedules": lambda: _drawn(schedule_figure(shown, looks), f"{SCHEDULES}."),
        "Error by step": lambda: _errors(shown, looks),
        "Images": lambda: _drawn(
            image_figure(shown, thumbnails=Path()), "One cell a row, one seed a column; the first seed of each cell."
        ),
    }
    parts = [
        Html(f"<h1>{html.html(table.title)}</h1>"),
        paragraph(f"{len(table.rows)} cells, {sum(len(row.records) for row in table.rows)} runs", "dim"),
        section("Signs of failure", *_signs(table)),
        section("Cells", _cells(table, pages), paragraph("A click on a column's head sorts by it.", "dim")),
    ]
    if len(table.rows) > DRAWN:
        parts.append(paragraph(f"Figures of single cells show the first {DRAWN} of {len(table.rows)}.", "dim"))
    for title, make in figures.items():
        with style():
            if inside := list(make()):
                parts.append(section(title, *inside))
    return html.document(table.title, parts, sortable=True)


def _drawn(figure: "Figure | None", caption: str) -> Iterator[Html]:
    if figure is not None:
        yield html.drawn(figure, caption)


def _tradeoff(table: Table, looks: Looks) -> Iterator[Html]:
    """What nothing beats, then all budgets of a configuration joined; both by the counted cost."""
    try:
        quantities = [named(key, table.metrics, key) for key in (COST, assumed(table))]
        yield html.drawn(pareto_figure(table_front(table, quantities), "What nothing beats"), PARETO)
    except ValueError as error:  # no score, or none that rows share
        yield paragraph(str(error), "dim")
    yield from _drawn(tradeoff_figure(table, looks), "The budgets of one configuration are joined.")


def _errors(shown: Chosen, looks: Looks) -> Iterator[Html]:
    """A figure a budget: rows that differ in their budget alone look alike."""
    groups: dict[str, list[Row]] = {}
    for row in shown.rows:
        groups.setdefault(budget_name([row], tuple(NUMBERS)), []).append(row)
    for name, rows in groups.items():
        figure = error_figure(Chosen(rows=tuple(rows), name=name), looks)
        yield from _drawn(figure, f"{ERRORS}, mean over seeds; {name}.")


def _signs(table: Table) -> Iterator[Html]:
    found = [(row, sign) for row in table.rows for record in row.records for sign in of_record(record)]
    for row, sign in {(row.title, sign.name): (row, sign) for row, sign in found[::-1]}.values():
        yield Html(f'<div class="sign"><p><strong>{html.html(row.title)}</strong>: {html.html(sign.line)}</p></div>')
    if not found:
        yield paragraph("None in the records; a run's own page also looks at what its store keeps.")


def _cells(table: Table, pages: Callable[[Row], str]) -> Html:
    frame = table.frame()
    costs = [key for key in COSTS if any(key in row.costs for row in table.rows)]
    axes = list(dict.fromkeys(axis for row in table.rows for axis in row.settings))
    own = [title for title in frame.columns if title not in (*COSTS.values(), "configuration")]
    head = ["cell", *axes, *own, *(COSTS[key] for key in costs)]
    rows: list[list[object]] = []
    for row, line in zip(table.rows, frame.to_dict("records"), strict=True):
        link = pages(row)
        cells: list[object] = [row.settings.get(axis, DASH) for axis in axes] + [line[title] for title in own]
        for key in costs:
            cost = row.costs.get(key)
            cells.append(DASH if cost is None else (cost_text(key, cost), cost.mean))
        rows.append([html.link(link, row.title) if link else row.title, *cells])
    return html.table(head, rows, sortable=True)


def axes_in(table: Table) -> dict[str, list[str]]:
    """Each axis of a table to the value that every row has on it; those on which rows differ."""
    axes = dict.fromkeys(axis for row in table.rows for axis in row.settings)
    choices = {axis: [row.settings.get(axis, DASH) for row in table.rows] for axis in axes}
    numbers = {
        title: [OFF if row.budget[key] is None else str(row.budget[key]) for row in table.rows]
        for key, title in NUMBERS.items()
    }
    found = [(choices, DASH), (numbers, OFF)]
    return {axis: each for values, left_out in found for axis, each in values.items() if len({*each} - {left_out}) > 1}


def _effects(table: Table) -> Iterator[Html]:
    axes = axes_in(table)
    metrics = [column for column in judging(table.metrics) if any(row.judged_by(column.key) for row in table.rows)]
    if axes and metrics:
        yield html.drawn(
            effect_figure(table, axes, metrics),
            "Each dot is a cell, each line the mean over all cells of that value. Where the grid is not whole, cells "
            "of two values also differ in the rest.",
        )


def effect_figure(table: Table, axes: Mapping[str, Sequence[str]], metrics: Sequence[Column]) -> "Figure":
    """Metrics from top to bottom, axes from left to right: every cell by its value, and the mean over the rest."""
    figure = new_figure(max(4.0, 1.2 + 2.3 * len(axes)), 0.6 + 2.4 * len(metrics))
    grid: Any = figure.subplots(len(metrics), len(axes), squeeze=False, sharey="row")
    for line, column in zip(grid, metrics, strict=True):
        for panel, (axis, values) in zip(line, axes.items(), strict=True):
            known = [
                (value, row.scores[column.key].mean) for row, value in zip(table.rows, values, strict=True)
                if row.judged_by(column.key)
            ]  # fmt: skip
            names = sorted(dict.fromkeys(value for value, _ in known), key=_place)
            panel.plot(
                [names.index(value) for value, _ in known], [score for _, score in known], linestyle="none",
                marker="o", markersize=4, color="#999999",
            )  # fmt: skip
            means = [fmean(score for value, score in known if value == name) for name in names]
            panel.plot(range(len(names)), means, color=PALETTE[1], marker="_", markersize=18, linewidth=1.2)
            panel.set_xticks(range(len(names)), [wrapped(name, 16) for name in names])
            panel.set_xlim(-0.5, len(names) - 0.5)
            panel.grid(axis="y", color="#E5E5E5", linewidth=0.7)
            panel.set_xlabel(axis)
        line[0].set_ylabel(wrapped(column.title))
    return figure


def _place(name: str) -> tuple[int, float]:
    """What is off first, then words as they came, then numbers by size."""
    return (0, 0.0) if name in (OFF, DASH) else (2, float(name)) if name.isdecimal() else (1, 0.0)
