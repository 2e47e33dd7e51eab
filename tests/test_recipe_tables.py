"""The share of naive's error that a recipe removes, as the pages quote it."""

from pathlib import Path

from cq.run.record_file import read
from experiments.recipes.run import PARTS, RECORDS, cells, controls, headline, parts, prepared, table

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_pages_are_what_the_script_prints() -> None:
    records, page = read(RECORDS), (ROOT / "results/README.md").read_text()
    for told in (table(records), controls(records), prepared(records), parts(read(PARTS))):
        assert "\n".join(told) in page
    assert "\n".join(headline(records)) in (ROOT / "README.md").read_text()


def test_every_recipe_stands_on_the_seeds_that_were_kept_for_it() -> None:
    recipes = ("naive", "best", "paper")
    found = [rows[name] for rows in cells(read(RECORDS)).values() for name in recipes if name in rows]
    assert len(found) == 3 * 3 * (2 + 2 + 1)
    assert {frozenset(runs) for runs in found} == {frozenset({41, 42, 43})}
