"""What lies in results/tables was generated from the records beside it: no number there is typed in."""

from pathlib import Path

from cq.cli.report import committed
from cq.report.render import render_table
from cq.run.record_file import read

RESULTS = Path(__file__).parents[2] / "results"


def test_stored_tables_are_what_the_records_give(tmp_path: Path) -> None:
    stored = sorted((RESULTS / "tables").glob("*.*"))
    records = [record for path in committed(RESULTS) for record in read(path)]
    written = [
        path
        for name in sorted({record.table for record in records})
        for path in render_table(name, records, RESULTS / "paper.csv", tmp_path, figures=False).files
    ]
    assert [path.name for path in stored] == sorted(path.name for path in written)
    for path in stored:
        assert path.read_bytes() == (tmp_path / "tables" / path.name).read_bytes(), (
            f"{path} differs from its records; run: cq-report --all"
        )


def test_every_record_file_is_of_one_table_and_small_enough_for_a_repository() -> None:
    for path in committed(RESULTS):
        assert {record.table for record in read(path)} == {path.stem.removeprefix("runs_")}
        assert path.stat().st_size < 8 * 2**20, path
