"""What tells records apart: the choices and numbers that differ between them, and a cell's name by these."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cq.run.labels import NO_CELL, SHORT, UNNAMED, words_of
from cq.run.record import BESIDE, BUDGET, RunRecord

OFF = "none"


@dataclass(frozen=True)
class Axis:
    """One thing in which records differ. kind: choice, number of the budget, or an entry of the configuration."""

    kind: str
    key: str

    @property
    def title(self) -> str:
        """As one writes it: schedule, correct.cache, N, calibrate.max_interval."""
        if self.kind == "choice":
            return self.key.replace("correct_", "correct.")
        return SHORT.get(self.key, self.key) if self.kind == "number" else self.key.removesuffix("._target_")

    def of(self, record: RunRecord) -> str:
        """Its value in a record, "-" where nothing reads it."""
        if self.kind == "choice":
            return str(record.choices.get(self.key) or OFF)
        value = record.budget[self.key] if self.kind == "number" else dict(leaves(record.config)).get(self.key)
        text = value if isinstance(value, str) else json.dumps(value)
        return "-" if value is None else text.rpartition(".")[2] if self.key.endswith("_target_") else text


def axes_of(records: Sequence[RunRecord]) -> tuple[Axis, ...]:
    """Choices first, then numbers of the budget, then entries that the former do not explain.

    An entry is compared between records of one class of component only, and is left out where those before it decide
    it: what `schedule=dps` and `schedule=uniform` bring along is no axis of its own.
    """
    choices = list(dict.fromkeys(key for record in records for key in record.choices))
    axes = [axis for axis in map(partial(Axis, "choice"), choices) if _differs(axis, records)]
    axes += [axis for axis in map(partial(Axis, "number"), BUDGET) if _differs(axis, records)]
    flat = [dict(leaves(record.config)) for record in records]
    told = [tuple(axis.of(record) for axis in axes) for record in records]  # what the axes so far say of each
    for key in dict.fromkeys(key for entries in flat for key in entries):
        values = [json.dumps(entries.get(key)) for entries in flat]
        if len(set(zip(told, values, strict=True))) > len(set(told)):
            axes.append(Axis("entry", key))
            told = [(*before, value) for before, value in zip(told, values, strict=True)]
    return tuple(axes)


def name_of(record: RunRecord, axes: Sequence[Axis]) -> str:
    """The cell in words, its values by axis; what is off goes without saying."""
    words = []
    for axis in axes:
        value = axis.of(record)
        bare = axis.kind == "choice" and not axis.key.startswith("correct_")
        if value not in (OFF, "-"):
            words.append(value if bare else f"{axis.title.removeprefix('correct.')} {value}")
    return ", ".join(words) or ", ".join(f"{axis.title} {axis.of(record)}" for axis in axes[:1])


def cell_of(record: RunRecord) -> str:
    """What sets a record apart from others of its label, model and budget: "" for a row as its table has it.

    Two of one cell and seed answer one question, a later one anew. What the command line said decides that; for a
    record that does not tell it, a run that is no row of a table, its configuration.
    """
    if record.overrides:
        return " ".join(words_of(record.overrides))
    return question_of(record) if record.label == UNNAMED else ""


def question_of(record: RunRecord) -> str:
    """One line that two records share exactly where they differ in nothing but the seed and what sets no cell apart.

    Files and code of your own, or not as committed, set them apart, too.
    """
    beside = [record.versions[BESIDE]] if BESIDE in record.versions else []
    return json.dumps([record.model, *beside, *leaves(record.config)], sort_keys=True, default=dict)


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every entry of a configuration that can set a cell apart."""
    if not isinstance(node, Mapping):
        yield key, list(node) if isinstance(node, tuple) else node
        return
    for name, value in node.items():
        if key or name not in NO_CELL:
            yield from leaves(value, f"{key}.{name}" if key else str(name))


def _differs(axis: Axis, records: Sequence[RunRecord]) -> bool:
    return len({value for record in records if (value := axis.of(record)) != "-"}) > 1
