"""What a row has a number of: scores, counted and measured costs, and the numbers it was run with.

By name, as `cq-report rank --by psnr_fp_db --under bops_image=1G` says them. The kinds are never mixed: a quantity is
counted or measured, and a row that lacks the one is not judged by the other.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cq.report.cells import DASH, Stat, fixed, mean_of, si
from cq.report.metrics import Column
from cq.report.paired import by_seed, common_means
from cq.report.tables import Row
from cq.run.record import RunRecord

SI: Mapping[str, float] = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
MIB: Mapping[str, float] = {"": 1, "MiB": 1, "GiB": 1024}
MACHINE = ("device", "batch_size", "threads")  # what measured times depend on beside the run
ALIASES = {"memory": "peak_mem_mib", "seconds": "seconds_per_image", "steps": "num_steps", "N": "cache_interval"}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """kind: score, counted, measured or setting. better: "up", "down", or "" where neither is. column: of a score.

    values: of a row, by seed. text: of one value. units: what may follow a number of it, to its size.
    """

    key: str
    title: str
    kind: str
    better: str
    values: Callable[[Row], Mapping[int, float]]
    text: Callable[[Stat], str]
    units: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    column: Column | None = None

    def of(self, row: Row) -> Stat | None:
        """Mean over the seeds of a row, or the value of its one with its interval; None where it says nothing of it."""
        if self.column is not None:
            return row.scores[self.key] if row.judged_by(self.key) else None
        found = list(self.values(row).values())
        return mean_of(found) if found else None

    def cell(self, row: Row) -> str:
        stat = self.of(row)
        return DASH if stat is None else self.text(stat)

    def number(self, text: str, what: str) -> float:
        """`1G` as a number. what: names the option in the error."""
        match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)", text.strip())
        if match is None or match[2] not in self.units:
            units = ", ".join(filter(None, self.units))
            raise ValueError(
                f"{what}: {text!r} is no number of {self.key}. Write digits"
                + (f", with one of {units} behind them where it helps." if units else ".")
            )
        return float(match[1]) * self.units[match[2]]


def known(columns: Sequence[Column]) -> dict[str, Quantity]:
    """Key to quantity: the scores of these columns first."""
    return {column.key: _score(column) for column in columns} | {
        quantity.key: quantity for quantity in (*_COUNTED, *_MEASURED, *_SETTINGS)
    }


def named(key: str, columns: Sequence[Column], what: str) -> Quantity:
    """The quantity of this key or alias. what: names the option in the ValueError for one that there is not."""
    found = known(columns)
    key = ALIASES.get(key, key)
    if key not in found:
        near = difflib.get_close_matches(key, found, n=1, cutoff=0.5)
        kinds: dict[str, list[str]] = {}
        for quantity in found.values():
            kinds.setdefault(quantity.kind, []).append(quantity.key)
        there = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in kinds.items())
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{what}: there is no {key!r} here. {hint}There are {there}; short: {', '.join(ALIASES)}.")
    return found[key]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A budget: at most, or at least, `limit` of a quantity."""

    quantity: Quantity
    limit: float
    at_least: bool

    @property
    def text(self) -> str:
        value = Stat(mean=self.limit, spread=None, low=None, high=None, num=1)
        return f"{self.quantity.title} at {'least' if self.at_least else 'most'} {self.quantity.text(value)}"

    def holds(self, row: Row) -> bool | None:
        """None where the row does not have the quantity."""
        stat = self.quantity.of(row)
        return None if stat is None else stat.mean >= self.limit if self.at_least else stat.mean <= self.limit


def bound(text: str, columns: Sequence[Column], *, at_least: bool) -> Bound:
    """`bops_image=1G`. Raises ValueError, which names the option."""
    option = "--at-least" if at_least else "--under"
    key, equals, value = text.partition("=")
    quantity = named(key, columns, f"{option} {text}")
    if not equals:
        raise ValueError(f"{option} {text}: says no limit. Write {option} {key}=NUMBER.")
    return Bound(quantity=quantity, limit=quantity.number(value, f"{option} {text}"), at_least=at_least)


def means(rows: Sequence[Row], quantity: Quantity) -> tuple[list[float], bool]:
    """Of each row, which must have it, the mean over the seeds that all of them share, and whether there are any.

    Without one of a score, each row's mean over its own: seeds differ more than rows do, so that this is to be said.
    What is infinite, as the PSNR of equal images, stays so, and does not count for the others.
    """
    own = [stat.mean if (stat := quantity.of(row)) else math.nan for row in rows]
    if quantity.column is None:
        return own, True
    finite = [row for row, value in zip(rows, own, strict=True) if math.isfinite(value)]
    shared = [value for value in common_means(finite, quantity.key) if value is not None]
    if len(shared) < len(finite):
        return own, False
    given = iter(shared)
    return [next(given) if math.isfinite(value) else value for value in own], True


def check_one_machine(rows: Sequence[Row], quantity: Quantity, what: str) -> None:
    """Raise ValueError where what was measured was not measured alike: such times share no order and no axis."""
    if quantity.kind != "measured":
        return
    for key in MACHINE:
        found: dict[str, Row] = {}
        for row in rows:
            for record in row.ok:
                found.setdefault(str((record.measured or {}).get(key)), row)
        if len(found) > 1:
            (one, a), (other, b), *_ = found.items()
            raise ValueError(
                f"{what}: measured with {key}={one} ({a.title}) and {key}={other} ({b.title}), which do not compare. "
                "Give records of one machine, or take a counted cost, such as bops_image."
            )


def _score(column: Column) -> Quantity:
    return Quantity(
        key=column.key, title=column.title.rpartition(" (")[0], kind="score", better=column.better, column=column,
        values=lambda row: by_seed(row, column.key) if row.judged_by(column.key) else {},
        text=lambda stat: stat.text(column.decimals),
    )  # fmt: skip


def _recorded(read: Callable[[RunRecord], float | None]) -> Callable[[Row], Mapping[int, float]]:
    def values(row: Row) -> Mapping[int, float]:
        return {record.seed: float(value) for record in row.ok if (value := read(record)) is not None}

    return values


def _counted(key: str, title: str, *, better: str = "down", an_image: bool = False) -> Quantity:
    def read(record: RunRecord) -> float | None:
        value = record.counted.get(key)
        return value if value is None or not an_image else value * record.counted["num_calls"]

    ratio = key == "compression"
    return Quantity(
        key=key.replace("_mean", "_image") if an_image else key, title=f"{title} (counted)", kind="counted",
        better=better, values=_recorded(read), text=_times if ratio else si, units={"": 1, "x": 1} if ratio else SI,
    )  # fmt: skip


def _measured(key: str, title: str, text: Callable[[Stat], str], units: Mapping[str, float], better: str) -> Quantity:
    return Quantity(
        key=key, title=f"{title} (measured)", kind="measured", better=better, text=text, units=units,
        values=_recorded(lambda record: (record.measured or {}).get(key)),
    )  # fmt: skip


def _setting(key: str, title: str, *, otherwise: int | None = None) -> Quantity:
    def read(record: RunRecord) -> float | None:
        return otherwise if record.budget[key] is None else record.budget[key]

    return Quantity(
        key=key, title=title, kind="setting", better="", values=_recorded(read), text=lambda stat: f"{stat.mean:g}"
    )


def _times(stat: Stat) -> str:
    return (stat.text(2) if stat.spread != 0 else fixed(stat.mean, 2)) + "x"


_COUNTED = (
    _counted("bops_mean", "BOPs an image", an_image=True),
    _counted("macs_mean", "MACs an image", an_image=True),
    _counted("bops_mean", "BOPs a call, mean"),
    _counted("macs_mean", "MACs a call, mean"),
    _counted("weight_bytes", "bytes of weights"),
    _counted("compression", "compression", better="up"),
    _counted("num_refreshes", "refresh calls"),
)
_MEASURED = (
    _measured("seconds_per_image", "s/image", lambda stat: stat.text(4), {"": 1, "s": 1}, "down"),
    _measured("speedup", "speed-up", _times, {"": 1, "x": 1}, "up"),
    _measured("peak_mem_mib", "peak MiB", lambda stat: stat.text(1), MIB, "down"),
)
_SETTINGS = (
    _setting("cache_interval", "N"),
    _setting("num_steps", "steps"),
    _setting("weight_bits", "weight bits", otherwise=32),
    _setting("act_bits", "activation bits", otherwise=32),
)
