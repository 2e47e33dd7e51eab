"""A text names a run, or the sentence says why it does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from cq.report.build import build_table
from cq.report.paper import read_paper
from cq.report.pick import Run, matching, one, row, runs_in
from cq.run.config import PAPER
from cq.run.record import BESIDE
from cq.run.record_file import append
from tests.report.synthetic import record


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two schedules, two seeds each, and the first run once more."""
    file = tmp_path / "records.jsonl"
    made = [
        record(
            f"cached, {schedule}",
            seed=seed,
            choices={"schedule": schedule, "correct_cache": "none"},
            config={"schedule": {"interval": 20, "kind": schedule}, "seed": seed},
            config_digest=f"{schedule[-1]}{seed}".encode().hex(),
            images_digest=f"{number}abc{'e' * 60}",
        )
        for number, (schedule, seed) in enumerate([("uniform", 0), ("uniform", 1), ("dps", 0), ("dps", 1)], 1)
    ]
    for each in [*made, replace(made[0], date="2002-01-01T00:00:00Z")]:
        append(each, file)
    return runs_in([file])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("last", [5]),
        ("3abc", [3]),
        (b"s1".hex(), [4]),
        ("synthetic/cached, dps", [3, 4]),
        ("cached, dps", [3, 4]),
        ("cached, uniform", [2, 5]),
        ("DPS seed=1", [4]),
        ("schedule=uniform seed=0", [5]),  # the later record of one question
        ("correct@correct.cache=none N=20, schedule.kind=dps", [3, 4]),
    ],
)
def test_a_run_is_found_by(runs: list[Run], text: str, numbers: list[int]) -> None:
    assert sorted(run.number for run in matching(runs, text)) == numbers


def test_the_seeds_of_one_configuration_are_a_row(runs: list[Run]) -> None:
    assert [run.record.seed for run in row(runs, "schedule=uniform")] == [0, 1]
    with pytest.raises(ValueError, match=r"'cached': names 2 configurations: .*cached, .*seed 0.*; .*cached, "):
        row(runs, "cached")


def test_a_key_that_no_run_has_is_refused_and_names_not_all(runs: list[Run]) -> None:
    assert len(matching(runs, "correct_cache=none")) == 4
    with pytest.raises(ValueError, match=r"corect_cache=none: no run .* Did you mean 'correct_cache'"):
        matching(runs, "corect_cache=none")


def test_of_code_that_was_edited_the_runs_of_before_are_named_by_their_numbers_alone(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    of_before = [record("mine", seed=seed, config_digest=f"a{seed}") for seed in range(3)]
    edited = record("mine", seed=0, config_digest="b0", versions={"torch": "0", BESIDE: "0123"})
    for each in (*of_before, edited):
        append(each, file)
    runs = runs_in([file])
    assert [run.number for run in row(runs, "mine")] == [4]
    assert [run.number for run in matching(runs, "schedule=uniform")] == [4]
    assert one(runs, "2").record == of_before[1]
    table = build_table("table5", [run.record for run in runs], read_paper(PAPER))
    assert [found.records for found in table.rows] == [(edited,)]
    assert [seed for _, seed, _ in table.superseded] == [0, 1, 2]


def test_none_and_several_are_refused_with_what_may_be_said(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match=r"'sparse': names none of the 5 runs of .*number \(1 to 5\)"):
        one(runs, "sparse")
    with pytest.raises(ValueError, match=r"'dps': names 2 runs: 3 \(.*seed 0.*; 4 \(.*seed 1.*Say more"):
        one(runs, "dps")
    assert one(runs, "dps seed=0").number == 3
    with pytest.raises(ValueError, match="2 record files have a run of this number"):
        one([*runs, *(replace(run, file=Path("other")) for run in runs)], "2")


def test_a_run_knows_the_folders_that_are_still_there(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "records.jsonl"
    append(record(store="store", folders={"samples": "samples/a", "schedule": "schedule/b"}), file)
    (file.parent / "store/samples/a").mkdir(parents=True)
    run = one(runs_in([file]), "1")
    assert run.folder("samples") == file.parent / "store/samples/a"
    assert run.folder("schedule") is None
    assert run.folder("quant_params") is None
    assert run.strip is None
