"""What lies in results/tables was generated from the records beside it: no number there is typed in."""

from pathlib import Path

from cq.record import read
from cq.report.render import render_table

RESULTS = Path(__file__).parents[2] / "results"


def test_stored_tables_are_what_the_records_give(tmp_path: Path) -> None:
    stored = sorted((RESULTS / "tables").glob("*.md"))
    records = read(RESULTS / "runs.jsonl") if stored else []
    for path in stored:
        render_table(path.stem, records, RESULTS / "paper.csv", tmp_path, figures=False)
        for suffix in (".md", ".csv", ".tex"):
            generated = (tmp_path / "tables" / path.name).with_suffix(suffix)
            assert path.with_suffix(suffix).read_bytes() == generated.read_bytes(), (
                f"{path.with_suffix(suffix)} differs from its records; run: cq-report --all"
            )
