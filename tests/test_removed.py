"""The share of naive's error that a recipe removes, as results/README.md quotes it."""

from pathlib import Path

import pytest

from cq.run.record_file import read
from experiments.removed.run import RECORDS, cells, main

TEXT = (Path(__file__).parents[1] / "results/README.md").read_text()


def test_the_table_of_the_page_is_what_its_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out in TEXT


def test_every_row_stands_on_the_seeds_that_were_kept_for_it() -> None:
    found = [runs for rows in cells(read(RECORDS)).values() for runs in rows.values()]
    assert found
    assert {frozenset(runs) for runs in found} == {frozenset({31, 32, 33})}
