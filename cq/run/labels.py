"""How a run is called where it stands alone, before others are there to say what differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UNNAMED = "single run"  # the label of conf/config.yaml, of a run that is no row of a table
# Sections of the configuration, and words of the command line, that set no run apart from another of its kind.
NO_CELL = ("row", "seed", "force", "budget", "paths", "logger", "latency", "objective", "limit", "fail_fast")
NO_CELL_WORDS = (*(name for name in NO_CELL if name != "budget"), "hydra", "experiment", "search")
SHORT: Mapping[str, str] = {
    "num_steps": "steps", "cache_interval": "N", "weight_bits": "weight bits", "act_bits": "activation bits",
}  # fmt: skip
OFF = ("none", "", None)


def words_of(overrides: Sequence[str]) -> list[str]:
    """What the command line said that sets a run apart, as it was said, in order of key."""
    return sorted(word for word in overrides if _section(word) not in NO_CELL_WORDS)


def run_name(asked: Mapping[str, Any]) -> str:
    """One line: the label of a row, what was set beside it, and the seed. asked: the fields of a record."""
    words = [_short(word) for word in asked["overrides"] if _section(word) not in NO_CELL_WORDS]
    label = [asked["label"]] * (asked["label"] != UNNAMED or not words)
    return ", ".join([*label, *words, f"seed {asked['seed']}"])


def run_group(asked: Mapping[str, Any]) -> str:
    """The table of a row; of single runs their model."""
    single = asked["label"] == UNNAMED
    return f"{asked['table']} {asked['choices'].get('model', '')}".strip() if single else str(asked["table"])


def run_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The choices by name, and the numbers of the budget that are read."""
    choices = {key.replace("correct_", "correct."): option or "none" for key, option in asked["choices"].items()}
    numbers = {key: value for key, value in asked["budget"].items() if value is not None}
    return {**choices, **numbers, "seed": asked["seed"]}


def run_tags(asked: Mapping[str, Any]) -> list[str]:
    """A tag for every choice that is not off, and for interval and bits."""

    def tags() -> Iterator[str]:
        for key, option in asked["choices"].items():
            if option not in OFF:
                yield f"{key.replace('correct_', 'correct.')}={option}"
        budget = asked["budget"]
        if budget["cache_interval"] is not None:
            yield f"N={budget['cache_interval']}"
        if budget["weight_bits"] is not None and budget["act_bits"] is not None:
            yield f"W{budget['weight_bits']}A{budget['act_bits']}"

    return [tag[:64] for tag in tags()]  # W&B takes no longer one


def _short(word: str) -> str:
    """budget.cache_interval=5 is N=5, correct@correct.cache=none is cache none, schedule=dps is dps."""
    key, _, value = word.lstrip("+~").partition("=")
    if key.startswith("budget."):
        name = key.removeprefix("budget.")
        return f"{SHORT.get(name, name)}={value}"
    if "@" in key:
        return f"{key.rpartition('.')[2]} {value}"
    return word if "." in key or value in OFF else value


def _section(word: str) -> str:
    key = word.lstrip("+~").partition("=")[0]
    return key.partition(".")[0].partition("/")[0].partition("@")[0]
