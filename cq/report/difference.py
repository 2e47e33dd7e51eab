"""Two configurations against each other: in what they differ, and which is better by what."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cq.report.axes import axes_of, leaves
from cq.report.build import bare_row, row_titles
from cq.report.cells import DASH, fixed
from cq.report.image_pairs import paired_images
from cq.report.metrics import columns_of, differing_fields
from cq.report.paired import compare
from cq.report.pick import DIGITS, Run
from cq.report.quantities import Quantity, check_one_machine, known
from cq.report.tables import Row
from cq.run.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A and B, each the runs of one configuration. a, b: the same as rows, scores of one protocol only.

    quantities: those that both have and that differ. equal: costs that do not. refused: what is not compared, and why.
    """

    runs: tuple[Sequence[Run], Sequence[Run]]
    a: Row
    b: Row
    quantities: tuple[Quantity, ...]
    equal: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[Run, Run]]:
        """Runs of one seed."""
        theirs = {run.record.seed: run for run in self.runs[1]}
        return [(run, theirs[run.record.seed]) for run in self.runs[0] if run.record.seed in theirs]

    def headings(self) -> list[str]:
        """Who A and B are."""
        return [
            f"{letter}: {row.title} ({row.records[0].experiment}, {row.seeds}, "
            f"{' '.join(record.config_digest[:DIGITS] for record in row.records)})"
            for letter, row in (("A", self.a), ("B", self.b))
        ]

    def configuration(self) -> list[list[str]]:
        """Heads and a line for all that differs: choices, numbers, entries, and what the runs were made with."""
        a, b = self.a.records[0], self.b.records[0]
        axes = [axis for axis in axes_of([a, b]) if axis.kind != "entry"]
        lines = [[axis.title, axis.of(a), axis.of(b)] for axis in axes]
        said = {f"{axis.title}._target_" for axis in axes}
        entries = dict(leaves(a.config)), dict(leaves(b.config))
        for sides, words in ((entries, ""), ((_made(a), _made(b)), "made with ")):
            keys = dict.fromkeys(key for side in sides for key in side)
            for key in sorted(keys, key=lambda key: not all(key in side for side in sides)):  # last, what only one has
                cells = [_cell(side.get(key)) for side in sides]
                if cells[0] != cells[1] and key not in said:
                    lines.append([words + key, *cells])
        return [["what differs", "A", "B"], *lines]

    def lines(self) -> list[list[str]]:
        """Heads and a line for every score and cost that both have."""
        return [["score or cost", "A", "B", "B - A", "better", "test"], *map(self._line, self.quantities)]

    def _line(self, quantity: Quantity) -> list[str]:
        heads = f" ({quantity.better})" if quantity.kind == "score" else ""
        cells = [quantity.title + heads, quantity.cell(self.a), quantity.cell(self.b)]
        a, b = quantity.of(self.a), quantity.of(self.b)
        if a is None or b is None:
            return [*cells, DASH, DASH, DASH]
        if quantity.column is None:
            ratio = f"x {b.mean / a.mean:.3g}" if a.mean else DASH
            return [*cells, ratio, _better(b.mean - a.mean, quantity) if quantity.kind == "counted" else DASH, DASH]
        decimals = quantity.column.decimals
        images = paired_images(self.pairs, quantity.key)
        if images is not None:
            low, high = fixed(images.low, decimals), fixed(images.high, decimals)
            said = f"{images.mean:+.{decimals}f} [{low}, {high}]"
            return [*cells, said, _better(images.sign, quantity), f"image by image, {images.num} pairs"]
        found = compare(self.a, self.b, quantity.column)
        if found is None:
            return [*cells, DASH, DASH, "no seed of both"]
        test = f"seed by seed, {found.num_seeds}" if found.num_seeds > 1 else "intervals of one seed"
        sign = found.winner * (1 if quantity.better == "up" else -1)
        return [*cells, found.difference.text(decimals), _better(sign, quantity), test]

    def notes(self) -> list[str]:
        """How it was tested, and what was not compared."""
        return [
            "Image by image: the mean difference of images of one seed, with its 95 % bootstrap interval; decided "
            "where that leaves out zero. Seed by seed: decided where all seeds agree in sign and the mean difference "
            "exceeds their standard deviation. Intervals of one seed: decided where they do not overlap.",
            *[f"Equal in both: {', '.join(self.equal)}."] * bool(self.equal),
            *self.refused,
        ]


def difference(runs: Sequence[Run], a: Sequence[Run], b: Sequence[Run]) -> Difference:
    """runs: those among which a and b, of one configuration each, have their names. Raises ValueError where a is b."""
    if {run.record.key for run in a} & {run.record.key for run in b}:
        raise ValueError(
            f"A and B are both run {a[0].number} of {a[0].file}: there is nothing to compare. Name two configurations."
        )
    titles = row_titles([run.record for run in runs])
    records = [[run.record for run in side] for side in (a, b)]
    shared, refused = _comparable(*records)
    kept = [
        [replace(record, scores={key: record.scores[key] for key in record.scores if key in shared}) for record in side]
        for side in records
    ]
    columns = columns_of([record for side in kept for record in side])
    rows = [
        bare_row(titles.get(id(side[0]), side[0].label), own, columns) for side, own in zip(records, kept, strict=True)
    ]
    quantities, equal = [], []
    for quantity in known(columns).values():
        if quantity.kind == "setting" or any(quantity.of(row) is None for row in rows):
            continue
        if quantity.kind == "counted" and quantity.of(rows[0]) == quantity.of(rows[1]):
            equal.append(f"{quantity.title} {quantity.cell(rows[0])}")
            continue
        try:
            check_one_machine(rows, quantity, quantity.title)
        except ValueError as error:
            refused.append(str(error).partition(" Give records")[0])
            continue
        quantities.append(quantity)
    return Difference(
        runs=(a, b), a=rows[0], b=rows[1], quantities=tuple(quantities), equal=tuple(equal), refused=tuple(refused)
    )


def _comparable(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> tuple[set[str], list[str]]:
    """The scores that both measured alike, and of the others why they are no line."""
    shared: set[str] = set()
    refused: list[str] = []
    for key in dict.fromkeys(key for record in [*a, *b] for key in record.scores):
        sides = [[record.scores[key] for record in side if key in record.scores] for side in (a, b)]
        if not all(sides):
            refused.append(f"{key}: only {'A' if sides[0] else 'B'} has it.")
        elif len({score["fingerprint"] for side in sides for score in side}) == 1:
            shared.add(key)
        else:
            other = next(score for score in sides[1] + sides[0] if score["fingerprint"] != sides[0][0]["fingerprint"])
            fields = "; ".join(differing_fields(sides[0][0]["protocol"], other["protocol"]))
            refused.append(f"{key}: not compared, for the protocols differ in {fields}.")
    return shared, refused


def _made(record: RunRecord) -> dict[str, Any]:
    own = {"weights": record.model["weights_digest"], "commit": record.commit, "device": record.device}
    return {**record.versions, **own}


def _better(sign: float, quantity: Quantity) -> str:
    """Of B's value minus A's, its sign: whose is better."""
    return "undecided" if not sign else "B" if (sign > 0) == (quantity.better == "up") else "A"


def _cell(value: Any) -> str:
    return DASH if value is None else value if isinstance(value, str) else json.dumps(value, default=list)
