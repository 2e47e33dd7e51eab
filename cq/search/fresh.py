"""Chosen points and what they are compared with, run again on seeds that no search has seen."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cq.run.objective import Missing, Objective
from cq.search.study import Ask, Point, Space

Values = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A configuration on fresh seeds. found: on the seed of the search; None for a control. missing: why it has none.

    values: on every fresh seed, in the order of the objectives.
    """

    words: str
    overrides: tuple[str, ...]
    found: Values | None
    values: tuple[Values, ...]
    missing: str

    @property
    def short(self) -> str:
        """Its words for a picture: names without their groups, and nothing of what is off."""
        pairs = [word.rpartition("=")[::2] for word in self.words.split()]
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in pairs if value != "none")

    @property
    def control(self) -> bool:
        """Whether it was given to compare with, not found."""
        return self.found is None

    @property
    def mean(self) -> Values:
        """Over the fresh seeds; () where there are none."""
        return tuple(statistics.fmean(each) for each in zip(*self.values, strict=True))

    @property
    def spread(self) -> Values:
        """Standard deviation over the fresh seeds, 0 of a single one."""
        return tuple(statistics.stdev(each) if len(each) > 1 else 0.0 for each in zip(*self.values, strict=True))

    def as_yaml(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "params" if not self.control else "control": self.words, "overrides": list(self.overrides),
            "values": None if self.found is None else list(self.found),
            "fresh": [list(each) for each in self.values], "missing": self.missing,
        }  # fmt: skip


def judge(
    points: Sequence[Point], controls: Sequence[str], space: Space, *, seeds: Sequence[int], ask: Ask
) -> list[Judged]:
    """Every point, then every control, a command line of its own beside what all runs say, on each of `seeds`."""
    asked: list[tuple[str, tuple[str, ...], Values | None]] = [
        (point.words, point.overrides, point.values) for point in points
    ]
    asked += [(words, _beside(space.fixed, words.split()), None) for words in dict.fromkeys(controls)]
    lines = [(*_without(line, "seed"), f"seed={seed}") for _, line, _ in asked for seed in seeds]
    answers = iter(ask(lines) if lines else ())
    judged = []
    for words, line, found in asked:
        mine = [next(answers) for _ in seeds]
        reasons = [answer.reason for answer in mine if isinstance(answer, Missing)]
        values = tuple(answer for answer in mine if not isinstance(answer, Missing))
        judged.append(
            Judged(words=words, overrides=line, found=found, values=values, missing="; ".join(dict.fromkeys(reasons)))
        )
    return judged


def lines_of(judged: Sequence[Judged], objectives: Sequence[Objective]) -> list[str]:
    """What each found on the seed of the search and on fresh ones, in words."""
    lines = []
    for each in judged:
        fresh = [
            f"{objective.key} {mean:.4g} ± {spread:.2g}"
            for objective, mean, spread in zip(objectives, each.mean, each.spread, strict=False)
        ]
        searched = [f"{o.key} {value:.4g}" for o, value in zip(objectives, each.found or (), strict=False)]
        told = [f"control {each.words}" if each.control else each.words]
        told += [f"searched: {', '.join(searched)}"] if searched else []
        told += [f"{len(each.values)} fresh seeds: {', '.join(fresh)}"] if fresh else []
        lines.append("; ".join([*told, *([each.missing] if each.missing else [])]))
    return lines


def _beside(fixed: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    keys = {_key(word) for word in own}
    return (*(word for word in fixed if _key(word) not in keys), *own)


def _without(line: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(word for word in line if _key(word) != key)


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
