"""What two runs have in common: their schedule, and everything about them but the schedule."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cq.run.record import BUDGET, RunRecord

PLANNING = ("schedule", "cost")  # choices that make a schedule: the cost is what a planner minimises
# Parts of a configuration that cannot change an image, and the budget, which a record keeps as far as it is read.
NO_MATTER = ("row", "seed", "force", "budget", "paths", "logger", "latency", "protocol")
METHOD = ("quantize", "correct_cache", "correct_quant")  # parts of a method beside its schedule
NONE = ("none", "", None)


def schedule_of(record: RunRecord) -> str:
    """The name of the schedule that was chosen; "none" without a cache."""
    return str(record.choices.get("schedule") or "none")


def context_of(record: RunRecord) -> str:
    """One line that two runs share exactly where they differ in nothing but schedule and seed."""
    left_out = (*NO_MATTER, *PLANNING)
    document = {
        "model": record.model,
        "budget": [record.budget[key] for key in BUDGET],
        "choices": {key: value for key, value in record.choices.items() if key not in PLANNING},
        "config": {key: value for key, value in record.config.items() if key not in left_out},
    }
    return json.dumps(_plain(document), sort_keys=True)


def parts_of(record: RunRecord) -> tuple[tuple[str, Any], ...]:
    """Every choice but those that make the schedule."""
    return tuple((key, value) for key, value in sorted(record.choices.items()) if key not in PLANNING)


def parts_in_words(records: Sequence[RunRecord]) -> list[str]:
    """Of each record its parts that are not off, and other choices in which the records differ; schedules apart."""
    others = sorted({key for record in records for key, _ in parts_of(record)} - set(METHOD))
    varied = [key for key in others if len({str(record.choices.get(key)) for record in records}) > 1]
    words = []
    for record in records:
        method = [f"{key} {record.choices[key]}" for key in METHOD if record.choices.get(key) not in NONE]
        named = [f"{key} {record.choices.get(key)}" for key in varied]
        words.append(", ".join([" + ".join(method) or "cache only", *named]))
    return words


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
