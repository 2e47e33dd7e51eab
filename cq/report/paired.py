"""Which of two rows is better, seed by seed: rows that share seeds share noise and classes, image by image."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cq.report.cells import Stat, fixed, mean_of
from cq.report.metrics import Column
from cq.report.tables import Row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Row b against row a by one metric. winner: 1 where b is better, -1 where a is, 0 where that is undecided.

    old, new: the means of a and b over the seeds that both have. difference: new - old, with the spread of the
    per-seed differences.
    """

    winner: int
    old: float
    new: float
    difference: Stat

    @property
    def num_seeds(self) -> int:
        return self.difference.num

    def text(self, decimals: int) -> str:
        sign = "+" if self.difference.mean > 0 else ""
        return f"{fixed(self.old, decimals)} to {fixed(self.new, decimals)}, {sign}{self.difference.text(decimals)}"


def compare(a: Row, b: Row, column: Column) -> Comparison | None:
    """None where no seed of both has the metric, or where one of them is what the metric compares with.

    See `rule` for when a comparison is decided.
    """
    if not (a.judged_by(column.key) and b.judged_by(column.key)):
        return None
    ours, theirs = by_seed(b, column.key), by_seed(a, column.key)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    difference = mean_of(differences)
    sign = decided(differences)
    if difference.spread is None:
        (low_a, high_a), (low_b, high_b) = (_interval(row, column.key, seeds[0]) for row in (a, b))
        sign = int(low_b > high_a) - int(low_a > high_b)
    return Comparison(
        winner=sign if column.better == "up" else -sign,
        old=math.fsum(theirs[seed] for seed in seeds) / len(seeds),
        new=math.fsum(ours[seed] for seed in seeds) / len(seeds),
        difference=difference,
    )


def decided(differences: Sequence[float]) -> int:
    """The sign of these per-seed differences, 0 where it is undecided, as it always is over one seed."""
    difference = mean_of(differences)
    sign = 1 if difference.mean > 0 else -1
    agree = all(value * sign > 0 for value in differences)
    return sign if difference.spread is not None and agree and abs(difference.mean) > difference.spread else 0


def common_means(rows: Sequence[Row], key: str) -> list[float | None]:
    """Each row's mean over the seeds that all rows with the metric share; None for rows without it.

    Seeds differ far more than rows do, so that means over different seeds would rank the seeds.
    """
    values = [by_seed(row, key) for row in rows]
    shared = set.intersection(*(set(found) for found in values if found)) if any(values) else set()
    return [math.fsum(found[seed] for seed in shared) / len(shared) if found and shared else None for found in values]


def rule(counts: Collection[int]) -> str:
    """When a comparison over so many seeds is decided, in words, with how often it is by chance alone."""
    parts = ["Rule: rows are compared seed by seed, for they share noise and classes."]
    several = sorted({count for count in counts if count > 1})
    if several:
        rates = ", ".join(f"{100 * chance(count):.0f} % with {count} seeds" for count in several)
        parts.append(
            "An order is decided where all seeds agree in sign and the mean difference exceeds the sample standard "
            "deviation of the per-seed differences. With no true difference and normal noise "
            f"this still decides up to {rates}, so that one verdict alone proves little."
        )
    if 1 in counts:
        parts.append("Over one seed it is decided where the bootstrap intervals do not overlap.")
    return " ".join(parts)


def chance(num_seeds: int) -> float:
    """How often |mean| > standard deviation, for normal differences of mean 0; agreeing signs make it no more often."""
    from scipy.special import stdtr

    return float(2 * stdtr(num_seeds - 1, -math.sqrt(num_seeds)))


def by_seed(row: Row, key: str) -> dict[int, float]:
    """A metric's values. Finite values only: no difference can be taken of others."""
    found = {r.seed: r.scores[key]["value"] for r in row.ok if key in r.scores and r.scores[key]["value"] is not None}
    return {seed: float(value) for seed, value in found.items() if math.isfinite(value)}


def _interval(row: Row, key: str, seed: int) -> tuple[float, float]:
    score = next(record.scores[key] for record in row.ok if record.seed == seed)
    low, high = score["low"], score["high"]
    return (score["value"] if low is None else low, score["value"] if high is None else high)
