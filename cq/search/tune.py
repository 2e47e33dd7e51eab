"""Autotune: the cheapest configuration within a quality, or the best one at a cost, from a search.

A configuration is within a quality by the worse end of its interval on the seed of the search, for the one that is
chosen is more often lucky than not. What it is worth, fresh seeds say, beside what else costs as much.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from cq.run.compose import composed, composing
from cq.run.explain import explain
from cq.run.ledger import RunError, execute
from cq.run.objective import MEASURED, Missing, Objective, returned
from cq.run.record import RunRecord
from cq.run.tables import settable
from cq.search.fresh import Judged
from cq.search.study import Answer, Point

OFF = {"correct@correct.cache": "none", "correct@correct.quant": "none", "correct@correct.output": "none"}

PRESETS = ("scale", "ablation", "debug")  # which come after a row, so that none can hold them


@dataclass(frozen=True, kw_only=True)
class Goal:
    """kind: hold a quality at the least cost, or a cost at the best quality. target: of what is held."""

    kind: Literal["quality", "cost"]
    target: float
    quality: Objective
    cost: Objective

    @property
    def words(self) -> str:
        """What was asked."""
        if self.kind == "quality":
            return f"the cheapest by {self.cost.key} within {self.quality.key} {self.target:g}"
        return f"the best by {self.quality.key} at {self.cost.key} {self.target:g}"

    @property
    def meaning(self) -> str:
        """What is known of the cost, in the words that are never mixed."""
        if self.cost.key in MEASURED:
            return f"{self.cost.key} is measured: wall clock of what really ran."
        return (
            f"{self.cost.key} is counted. The quality of quantized configurations is simulated where their records "
            "name no engine that executed them, and no speed is claimed for those."
        )


@dataclass
class Runs:
    """Runs of this process; `ask` answers a search, `records` keeps what it found by command line."""

    records: dict[tuple[str, ...], RunRecord]

    def record(self, line: tuple[str, ...]) -> RunRecord:
        """Of a command line, from the record file where it has been answered. Raises as `execute`."""
        if line not in self.records:
            with composing():
                config, choices = composed(line)
            self.records[line] = execute(config, choices, line, warn=False)
        return self.records[line]

    def asking(self, keys: Sequence[str]) -> Callable[[Sequence[tuple[str, ...]]], list[Answer]]:
        """Numbers of these names of each line's run, or why there are none."""

        def ask(lines: Sequence[tuple[str, ...]]) -> list[Answer]:
            answers: list[Answer] = []
            for line in lines:
                try:
                    answers.append(returned(self.record(line), keys))
                except (ValueError, OSError, RunError) as error:
                    answers.append(Missing(reason=explain(error), refused=not isinstance(error, RunError)))
            return answers

        return ask


def choose(points: Sequence[Point], goal: Goal, record: Callable[[tuple[str, ...]], RunRecord]) -> Point | None:
    """The point that reaches the goal best; None where none does. points: quality first, then cost."""
    held, best = (0, 1) if goal.kind == "quality" else (1, 0)
    objectives = (goal.quality, goal.cost)

    def reaches(value: float) -> bool:
        sign = objectives[held].sign
        return sign * value <= sign * goal.target

    for point in sorted(points, key=lambda point: objectives[best].sign * point.values[best]):
        if reaches(point.values[held]) and (held == 1 or reaches(_cautious(record(point.overrides), goal.quality))):
            return point
    return None


def _cautious(record: RunRecord, quality: Objective) -> float:
    score = record.scores[quality.key]
    end = score["low" if quality.better == "up" else "high"]
    return float(score["value"] if end is None else end)


def controls_of(point: Point, goal: Goal, full_steps: int) -> list[str]:
    """Command lines that cost about as much: fewer steps of everything in full, and the uniform grid uncorrected."""
    share = point.values[1] if goal.cost.key.endswith("_share") else None
    found: list[Mapping[str, object]] = []
    if share is not None:
        steps = min(full_steps, max(1, round(share * full_steps)))
        found.append({"schedule": "none", "quantize": "none", "budget.sample_steps": steps, **_off(point)})
    own = {key: value for key, value in point.params.items() if key not in ("cost", "predict")}
    uniform = {**own, "schedule": "uniform", **_off(point)}
    if uniform != own and own.get("schedule") != "none":
        found.append(uniform)
    elif share is not None and own.get("schedule") == "none":  # of whole calls alone: what a cache would do instead
        interval = min(full_steps, max(2, math.ceil(1 / share)))
        found.append({**uniform, "budget.sample_steps": full_steps, "budget.cache_interval": interval})
    return [" ".join(f"{key}={value}" for key, value in each.items()) for each in found]


def verdict(judged: Sequence[Judged], goal: Goal) -> str:
    """Whether the choice, the first one, keeps on fresh seeds what was asked, and which controls are better."""
    chosen, *controls = judged
    if not chosen.values:
        return "No fresh seeds were run: nothing is said of the choice but what it was chosen by."
    held, objective = (0, goal.quality) if goal.kind == "quality" else (1, goal.cost)
    signs = goal.quality.sign, goal.cost.sign

    def worse(each: Judged) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, each.mean, strict=True))

    keeps = worse(chosen)[held] <= objective.sign * goal.target
    told = f"On fresh seeds it {'keeps' if keeps else 'misses'} {objective.key} {goal.target:g}"
    better = [
        each.words
        for each in controls
        if each.values and worse(each) != worse(chosen)
        and all(theirs <= ours for theirs, ours in zip(worse(each), worse(chosen), strict=True))
    ]  # fmt: skip
    return f"{told}; {'better there: ' + ' and '.join(better) if better else 'no control beats it'}."


def alone(line: Sequence[str]) -> tuple[str, ...]:
    """A command line without its seed and its search, whose choices it says itself."""
    rest = tuple(word for word in line if word.partition("=")[0] not in ("seed", "search", "objective"))
    with composing():
        asked, bare = composed(line)[1], composed(rest)[1]
    preset = (f"{group}={choice}" for group, choice in asked.items() if bare.get(group) != choice)
    return (*rest, *(word for word in preset if not word.startswith(("hydra", "search"))))


def table_of(judged: Sequence[Judged], goal: Goal) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The choice and its controls as a file of conf/table, and what its rows cannot say, which all have in common.

    Without rows where the search began from another table's row, whose settings they would lack.
    """
    known, rows, beside = settable(), {}, dict[str, None]()
    for number, each in enumerate(judged):
        kind = "control" if each.control else "chosen"
        row: dict[str, Any] = {"label": f"{kind}: {each.short}"}
        for word in alone(each.overrides):
            key, _, value = word.partition("=")
            if key in known and key not in PRESETS:
                row[key] = value if known[key] is str else yaml.safe_load(value)
            else:
                beside[word] = None
        rows[kind if number == 0 else f"{kind}_{number}"] = row
    if any(word.startswith("experiment=") for word in beside):
        rows = {}
    return {"title": f"Tuned: {goal.words}", "rows": rows}, tuple(beside)


def _set(point: Point) -> Mapping[str, object]:
    return {key: value for key, value in point.params.items() if key in OFF}


def _off(point: Point) -> dict[str, object]:
    return {key: OFF[key] for key in _set(point)}
