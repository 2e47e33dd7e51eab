"""What `make tables` asks is answered by the committed records: composed anew, every row has the name of its record."""

from pathlib import Path

import pytest

from cq.cli.jobs import jobs_of
from cq.cli.report import committed
from cq.run.ledger import REPOSITORY, config_digest, experiment_of
from cq.run.record_file import read

TABLES = [path.stem.removeprefix("runs_") for path in committed(REPOSITORY / "results")]


def unanswered(table: str, *overrides: str) -> tuple[int, list[tuple[str, int, str]]]:
    """How many questions the table has, and those that no record of it answers."""
    asked = {
        (experiment_of(job.config), job.config.seed, config_digest(job.config))
        for job in jobs_of(table, overrides, grid=True)
    }
    found = {(each.experiment, each.seed, each.config_digest) for each in read(path_of(table)) if each.status == "ok"}
    return len(asked), sorted(asked - found)


def path_of(table: str) -> Path:
    return REPOSITORY / f"results/runs_{table}.jsonl"


def test_a_table_of_every_strategy_forecast_and_solver_is_answered() -> None:
    assert unanswered("table3", "seed=0", "budget.cache_interval=5") == (23, [])


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_every_table_is_answered(table: str) -> None:
    asked, missing = unanswered(table)
    assert asked
    assert missing == []
