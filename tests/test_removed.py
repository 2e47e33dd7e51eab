"""The share of naive's error that a recipe removes, as the pages quote it."""

from pathlib import Path

from cq.run.record_file import read
from experiments.removed.run import RECORDS, cells, headline, table

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_pages_are_what_the_script_prints() -> None:
    records = read(RECORDS)
    assert "\n".join(table(records)) in (ROOT / "results/README.md").read_text()
    assert "\n".join(headline(records)) in (ROOT / "README.md").read_text()


def test_every_row_stands_on_the_seeds_that_were_kept_for_it() -> None:
    found = [runs for rows in cells(read(RECORDS)).values() for runs in rows.values()]
    assert found
    assert {frozenset(runs) for runs in found} == {frozenset({31, 32, 33})}
