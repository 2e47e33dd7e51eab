"""What recipes remove and are worth, as the pages quote it."""

from pathlib import Path

from cq.run.record_file import read
from experiments.recipes.run import (
    PARTS,
    RECORDS,
    SCHEDULES,
    cells,
    controls,
    headline,
    parts,
    prepared,
    schedules,
    table,
)
from experiments.widths import run as widths

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_pages_are_what_the_script_prints() -> None:
    records, page = read(RECORDS), (ROOT / "results/README.md").read_text()
    others = (parts(read(PARTS)), schedules(read(SCHEDULES)), widths.table(read(ROOT / "results/runs_widths.jsonl")))
    for told in (table(records), controls(records), prepared(records), *others):
        assert "\n".join(told) in page
    assert "\n".join(headline(records)) in (ROOT / "README.md").read_text()


def test_every_recipe_stands_on_the_seeds_that_were_kept_for_it() -> None:
    recipes = ("naive", "best", "paper")
    found = [rows[name] for rows in cells(read(RECORDS)).values() for name in recipes if name in rows]
    assert len(found) == 3 * 3 * (2 + 2 + 1)
    assert {frozenset(runs) for runs in found} == {frozenset({41, 42, 43})}
