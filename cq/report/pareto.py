"""Which points nothing beats in all respects, and the picture of them.

A point is a row of a table, or whatever else has a name and numbers. Dominated is one that another is as good as in
every respect and better than in one. Controls, full precision and fewer steps, are drawn apart: the front is of what
caches or quantizes, and a control that dominates a point of it is named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cq.report.axes import Axis, leaves
from cq.report.cells import Stat
from cq.report.quantities import ALIASES, Bound, Quantity, check_one_machine, means
from cq.report.rank import simulated, told, within
from cq.report.tables import Row, Table
from cq.run.record import BUDGET

if TYPE_CHECKING:
    import pandas as pd

FULL, FEWER = "full precision", "fewer steps"  # kinds of controls
WIDE = 4.0  # largest over smallest value from which on an axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Respect:
    """One axis. better: "up" or "down". text: of one value."""

    key: str
    title: str
    better: str
    text: Callable[[float], str]
    logarithmic: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """values: one for every respect. band: of the second one, where it is known. control: which kind, or ""."""

    name: str
    values: tuple[float, ...]
    band: tuple[float, float] | None = None
    control: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Front:
    """points, in order of the first respect. best: places of those of the front. groups: what colours stand for, or "".

    notes: what is to be said of them.
    """

    respects: tuple[Respect, ...]
    points: tuple[Point, ...]
    best: tuple[int, ...]
    groups: str = ""
    notes: tuple[str, ...] = ()

    @property
    def controls(self) -> list[int]:
        return [place for place, point in enumerate(self.points) if point.control]

    @property
    def fewer(self) -> tuple[int, ...]:
        """The front of the controls of fewer steps by themselves."""
        own = [place for place in self.controls if self.points[place].control == FEWER]
        return _undominated(self.points, self.respects, own)

    @property
    def marks(self) -> dict[int, str]:
        """Place to what stands beside the point: numbers on the front, letters at controls."""
        letters = {place: chr(ord("a") + at % 26) for at, place in enumerate(self.controls)}
        return {place: str(number) for number, place in enumerate(self.best, 1)} | letters

    def beaten_by(self, place: int, *, controls: bool) -> list[str]:
        """Names of the controls, or of the other points, that dominate one."""
        others = [point for point in self.points if bool(point.control) == controls]
        return [point.name for point in others if dominates(point, self.points[place], self.respects)]

    def lines(self) -> list[list[str]]:
        """Heads, then the front and the controls, as text."""
        heads = [
            f"{respect.title} ({respect.better})" if respect.better else respect.title for respect in self.respects
        ]
        groups = [self.groups] * bool(self.groups)
        body = []
        for place, mark in self.marks.items():
            point = self.points[place]
            values = [respect.text(value) for respect, value in zip(self.respects, point.values, strict=True)]
            beaten = "; ".join(self.beaten_by(place, controls=True)) if not point.control else point.control
            body.append([f"{mark:>2}. {point.name}", *values, *[point.group] * bool(self.groups), beaten or "-"])
        return [["front", *heads, *groups, "control, or beaten by control"], *body]

    def frame(self) -> "pd.DataFrame":
        """Every point, for machines."""
        import pandas as pd

        return pd.DataFrame([
            {"configuration": point.name}
            | {respect.key: value for respect, value in zip(self.respects, point.values, strict=True)}
            | ({self.groups: point.group} if self.groups else {})
            | {
                "front": place in self.best,
                "control": point.control,
                "dominated_by": "; ".join(self.beaten_by(place, controls=False)[:1]),
            }
            for place, point in enumerate(self.points)
        ])  # fmt: skip


def dominates(a: Point, b: Point, respects: Sequence[Respect]) -> bool:
    """Whether a is as good as b in all respects, and better in one."""
    signs = [1 if respect.better == "down" else -1 for respect in respects]
    gaps = [sign * (x - y) for sign, x, y in zip(signs, a.values, b.values, strict=True)]
    return all(gap <= 0 for gap in gaps) and any(gap < 0 for gap in gaps)


def front_of(
    points: Sequence[Point], respects: Sequence[Respect], groups: str = "", notes: Sequence[str] = ()
) -> Front:
    """The front of these points. Raises ValueError where fewer than two respects say which way is better."""
    directed = [respect.title for respect in respects if respect.better]
    if len(directed) < 2:
        raise ValueError(f"axes {[r.key for r in respects]}: of these only {directed} say what is better; name two.")
    ordered = tuple(sorted(points, key=lambda point: point.values))
    best = _undominated(ordered, respects, [place for place, point in enumerate(ordered) if not point.control])
    return Front(respects=tuple(respects), points=ordered, best=best, groups=groups, notes=tuple(notes))


def _undominated(points: Sequence[Point], respects: Sequence[Respect], among: Sequence[int]) -> tuple[int, ...]:
    return tuple(
        place for place in among if not any(dominates(points[rival], points[place], respects) for rival in among)
    )


def table_front(table: Table, quantities: Sequence[Quantity], bounds: Sequence[Bound] = (), group: str = "") -> Front:
    """Of the rows of a table by two or three quantities, means over seeds.

    group: a choice, a number of the budget, or an entry of the configuration, to colour points by; "" for none. Raises
    ValueError for a quantity of which neither more nor less is better, for times of two machines, for an unknown group.
    """
    for quantity in quantities:
        if not quantity.better:
            raise ValueError(
                f"{quantity.key}: more of it is neither better nor worse. Colour by it: --z {quantity.key}"
            )
    axis = _axis(group, table.rows) if group else None
    rows, left_out = within(table.rows, quantities, bounds)
    columns = []
    notes = [*simulated(rows), *told(len(rows), bounds, left_out)]
    for quantity in quantities:
        check_one_machine(rows, quantity, quantity.key)
        values, same = means(rows, quantity)
        columns.append(values)
        if not same:
            notes.append(f"{quantity.title}: no seed is common to all rows, so that means are over different ones.")
    points = [
        Point(
            name=row.title,
            values=tuple(values[place] for values in columns),
            band=_band(row, quantities[1], columns[1][place]),
            control=control_of(row),
            group=axis.of(row.records[0]) if axis else "",
        )
        for place, row in enumerate(rows)
    ]
    respects = [_respect(quantity, values) for quantity, values in zip(quantities, columns, strict=True)]
    return front_of(points, respects, axis.title if axis else "", notes)


def _axis(group: str, rows: Sequence[Row]) -> Axis:
    choice, number = group.replace("correct.", "correct_"), ALIASES.get(group, group)
    records = [row.records[0] for row in rows]
    for axis, known in (
        (Axis("choice", choice), {key for record in records for key in record.choices}),
        (Axis("number", number), set(BUDGET)),
        (Axis("entry", group), {key for record in records for key, _ in leaves(record.config)}),
    ):
        if axis.key in known:
            return axis
    raise ValueError(
        f"--z {group}: is no quantity, no choice, no number of the budget and no entry of the configuration here. "
        f"Choices are {', '.join(sorted({key.replace('correct_', 'correct.') for r in records for key in r.choices}))}."
    )


def control_of(row: Row) -> str:
    """What a row that neither caches nor quantizes is."""
    plain = not row.records[0].quantized and all(
        record.counted["num_refreshes"] == record.counted["num_calls"] for record in row.ok
    )
    return "" if not plain else FULL if row.is_at_full_length else FEWER


def _band(row: Row, quantity: Quantity, mean: float) -> tuple[float, float] | None:
    """Moved to the mean that is drawn, which may be over fewer seeds."""
    stat = quantity.of(row)
    if stat is None or stat.band == (stat.mean, stat.mean):
        return None
    return (stat.band[0] - stat.mean + mean, stat.band[1] - stat.mean + mean)


def _respect(quantity: Quantity, values: Sequence[float]) -> Respect:
    def text(value: float) -> str:
        return quantity.text(Stat(mean=value, spread=None, low=None, high=None, num=1))

    wide = bool(values) and min(values) > 0 and max(values) > WIDE * min(values)
    return Respect(
        key=quantity.key, title=quantity.title, better=quantity.better, text=text,
        logarithmic=quantity.kind != "score" and wide,
    )  # fmt: skip
