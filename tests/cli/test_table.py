"""Filling a table: what is missing is run, what fails keeps its row, and a second call runs nothing."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import cq.run.pipeline
from cq.cli.jobs import _meant, jobs_of
from cq.cli.table import Known, fill, main
from cq.run import tables
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import CallSeconds
from cq.run.pipeline import accelerated
from cq.run.record_file import read, reseal
from cq.run.tracking import NoLogger, RunLog
from tests.report.synthetic import record
from tests.tiny_runs import quick

ROWS = ("full_precision", "cache_uniform", "cache_dps")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 5 with the rows that are not quantized: one row a step of the table, seconds instead of a minute."""
    table = OmegaConf.load(tables.FOLDER / "table5.yaml")
    table.rows = {name: table.rows[name] for name in ROWS}
    table.grid = [{"budget.cache_interval": [2, 5], "seed": [0, 1]}, {"seed": [1, 2], "budget.cache_interval": 5}]
    OmegaConf.save(table, tmp_path / "table5.yaml")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)


@pytest.fixture
def sent_tables(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, set[str]]]:
    """What went to W&B: name of the table, number of records, suffixes of the files."""
    sent: list[tuple[str, int, set[str]]] = []

    def log_table(_: NoLogger, name: str, records: list[Any], files: tuple[Path, ...], folder: Path) -> None:
        sent.append((name, len(records), {file.suffix for file in files}))

    monkeypatch.setattr(NoLogger, "log_table", log_table)
    return sent


@pytest.mark.usefixtures("rows")
def test_a_table_is_filled_and_a_second_call_runs_nothing(
    tiny_folder: Path, tmp_path: Path, sent_tables: list[Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    overrides = quick(tiny_folder, tmp_path)
    out = tmp_path / "report"
    filled = fill("table5", overrides, out)
    assert (filled.ran, filled.failed) == (3, 0)
    told = caplog.text
    assert told.index("3 runs, 0 of them recorded already") < told.index("minutes for everything")
    assert told.index("minutes for everything") < told.index("run 1 of 3: full precision, seed 0")
    assert "run 3 of 3: cache only, DPS, seed 0" in told
    records = read(tmp_path / "records.jsonl")
    assert [record.experiment for record in records] == [f"table5/{row}" for row in ROWS]
    assert all(record.label in filled.text for record in records)
    made = {path.name for path in (out / "tables").iterdir()}
    made -= {"table5_preparation.md", "table5_preparation.csv"}  # where a busy machine made rows seconds apart
    assert made == {
        *("table5.md", "table5.csv", "table5.tex"),
        *("table5_winners.md", "table5_winners.csv"),  # two rows differ in nothing but their schedule
    }
    assert list((out / "figures").glob("*.png"))
    assert sent_tables == [("table5", 3, {".md", ".csv", ".tex", ".png"})]

    monkeypatch.setattr(cq.run.pipeline, "run", lambda *_: pytest.fail("a run was started"))
    monkeypatch.setattr("cq.models.latent.LatentDiffusion.load", lambda _: pytest.fail("the model was loaded"))
    caplog.clear()
    started = time.process_time()
    again = fill("table5", overrides, out)
    assert time.process_time() - started < 10
    assert (again.ran, again.failed) == (0, 0)
    assert again.text == filled.text
    assert "3 runs, 3 of them recorded already" in caplog.text
    assert len(sent_tables) == 1  # the table in W&B is written where something is new
    assert read(tmp_path / "records.jsonl") == records

    path = tmp_path / "records.jsonl"  # as if rows of another table had asked
    path.write_text(path.read_text().replace('"experiment":"table5/', '"experiment":"mine/'))
    reseal(path)
    caplog.clear()
    assert fill("table5", overrides, out).ran == 3
    assert "3 runs, 0 of them recorded already, 3 more answered in other tables" in caplog.text
    assert "minutes for everything" not in caplog.text
    assert [record.experiment for record in read(path)[3:]] == [record.experiment for record in records]


@pytest.mark.usefixtures("rows")
def test_the_plan_of_a_table_counts_what_is_missing_and_starts_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = quick(tiny_folder, tmp_path)

    def planned() -> tuple[dict[str, list[str]], str]:
        assert main(["table5", *arguments, f"out={tmp_path}/report", "--plan"]) == 0
        told = capsys.readouterr().out
        return {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}, told

    def timed(*_: object, **__: object) -> CallSeconds:
        return CallSeconds(full=90.0, cached=9.0)

    monkeypatch.setattr("cq.cli.table_plan.time_calls", timed)
    with monkeypatch.context() as patch:
        patch.setattr(cq.run.pipeline, "run", lambda *_: pytest.fail("a run was started"))
        rows, told = planned()
    assert not (tmp_path / "records.jsonl").exists()
    # hours of 4 images of 10 calls, the set that all share with the first row; of two calibration trajectories
    full, cached, calibration = 4 * 10 / 40, 4 * (5 / 40 + 5 / 400), 2 * 10 * 1.2 / 40
    assert [float(rows[row][0]) for row in (*ROWS, "total")] == [
        full, pytest.approx(cached, abs=0.01), pytest.approx(cached + calibration, abs=0.01),
        pytest.approx(full + 2 * cached + calibration, abs=0.01),
    ]  # fmt: skip
    assert float(rows["total"][2]) == pytest.approx(sum(float(rows[row][2]) for row in ROWS), abs=0.02)
    assert max(len(line) for line in told.splitlines()) <= 120

    jobs = jobs_of("table5", arguments)
    accelerated(Run(Components.of(jobs[2].config)))  # as a run that was killed would leave it
    monkeypatch.setattr("cq.cli.table.recorded", lambda _: [record_known(), *[Known(None, None)] * 2])
    rows, told = planned()
    assert rows["full_precision"] == ["recorded"]
    assert float(rows["cache_dps"][0]) == pytest.approx(cached, abs=0.01)  # the images alone
    assert float(rows["cache_uniform"][0]) == pytest.approx(full + cached, abs=0.01)  # now the first of the set
    assert "cache_correction of 1, output_correction of 1, quant_correction of 1, quant_params of 1, sched" in told


def record_known() -> Known:
    known = record()
    return Known(known, known)


def broken_run(experiment: str) -> Callable[[Components, RunLog], Any]:
    run = cq.run.pipeline.run

    def broken(parts: Components, live: RunLog) -> Any:
        if type(parts.planner).__name__ == experiment:
            raise RuntimeError("this row broke")
        return run(parts, live)

    return broken


@pytest.mark.usefixtures("rows")
def test_a_row_that_fails_stays_in_the_table_and_the_others_go_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["table5", *quick(tiny_folder, tmp_path), f"out={tmp_path}/report"]
    with monkeypatch.context() as patch:
        patch.setattr(cq.run.pipeline, "run", broken_run("Uniform"))
        assert main(arguments) == 1
    told = capsys.readouterr()
    assert "1 of 3 cells did not end well:" in told.err
    assert "failed: experiment=table5/cache_uniform: " in told.err
    assert "Traceback" in told.err
    assert "this row broke" in told.out  # the table says why
    records = read(tmp_path / "records.jsonl")
    assert [(record.experiment, record.status) for record in records] == [
        ("table5/full_precision", "ok"), ("table5/cache_uniform", "failed"), ("table5/cache_dps", "ok"),
    ]  # fmt: skip
    assert main(arguments) == 0  # mended: only the failed row is run again
    assert "this row broke" not in capsys.readouterr().out
    assert len(read(tmp_path / "records.jsonl")) == 4


@pytest.mark.usefixtures("rows")
def test_a_row_over_a_limit_is_refused_in_its_turn_and_the_others_go_on(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table5", *quick(tiny_folder, tmp_path), f"out={tmp_path}/report"]
    assert main([*words, "limit.bops_share=0.9"]) == 1
    assert "refused: experiment=table5/full_precision: limit.bops_share=0.9" in " ".join(
        capsys.readouterr().err.split()
    )
    assert [each.experiment for each in read(tmp_path / "records.jsonl")] == [
        "table5/cache_uniform",
        "table5/cache_dps",
    ]
    assert main([*words, "limit.bops_share=0.01", "seed=1"]) == 2


@pytest.mark.usefixtures("rows")
def test_a_stop_by_the_keyboard_keeps_what_is_recorded(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cq.run.pipeline.run

    def stopped(parts: Components, live: RunLog) -> Any:
        if type(parts.planner).__name__ == "Uniform":
            raise KeyboardInterrupt
        return run(parts, live)

    monkeypatch.setattr(cq.run.pipeline, "run", stopped)
    assert main(["table5", *quick(tiny_folder, tmp_path), f"out={tmp_path}/report"]) == 130
    assert "The same command goes on from here" in capsys.readouterr().err
    assert [record.experiment for record in read(tmp_path / "records.jsonl")] == ["table5/full_precision"]


@pytest.mark.usefixtures("rows")
def test_a_grid_asks_every_question_once(tiny_folder: Path, tmp_path: Path) -> None:
    intervals: dict[str, list[int | None]] = {}
    for job in jobs_of("table5", quick(tiny_folder, tmp_path, "budget.cache_interval=2,5")):
        intervals.setdefault(job.config.row.name, []).append(job.config.schedule.get("interval"))
    # full precision reads no interval: it is one question
    assert intervals == {"full_precision": [None], "cache_uniform": [2, 5], "cache_dps": [2, 5]}


@pytest.mark.usefixtures("rows")
def test_a_key_applies_to_the_rows_that_have_it(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arguments = quick(tiny_folder, tmp_path, "schedule.interval=2,5")
    asked = [(job.config.row.name, job.config.schedule.get("interval")) for job in jobs_of("table5", arguments)]
    assert asked == [("full_precision", None), *((row, interval) for row in ROWS[1:] for interval in (2, 5))]
    assert caplog.messages.count("schedule.interval=2: 1 of 3 rows have no such key: full_precision") == 1
    with pytest.raises(ValueError, match=r"schedule.intervall=2: no row of table5 has .* Did you mean 'interval'?"):
        jobs_of("table5", quick(tiny_folder, tmp_path, "schedule.intervall=2"))


@pytest.mark.usefixtures("rows")
def test_the_grid_of_the_file_is_asked_where_the_command_line_says_nothing_else(
    tiny_folder: Path, tmp_path: Path
) -> None:
    def asked(*overrides: str) -> list[tuple[str, int, int]]:
        arguments = [word for word in quick(tiny_folder, tmp_path) if not word.startswith("budget.cache_interval=")]
        jobs = [job.config for job in jobs_of("table5", [*arguments, *overrides], grid=True)]
        return [(job.row.name, job.budget.cache_interval, job.seed) for job in jobs if "cache" in job.row.name]

    # seed by seed, row by row; the second grid adds a seed, and what both ask is asked once
    first = [(row, interval, seed) for seed in (0, 1) for row in ROWS[1:] for interval in (2, 5)]
    assert asked() == [*first, ("cache_uniform", 5, 2), ("cache_dps", 5, 2)]
    assert asked("seed=7", "budget.cache_interval=3") == [("cache_uniform", 3, 7), ("cache_dps", 3, 7)]


def test_an_override_of_what_tells_the_grids_apart_takes_those_that_have_it() -> None:
    grids = [{"model": "a", "seed": "0,1"}, {"model": "b", "seed": "0,1"}, {"model": "c,d", "seed": "0,1"}]
    assert _meant(grids, ["model=b", "x=1"]) == [(grids[1], ["model=b", "x=1"])]
    assert _meant(grids, ["model=d,a"]) == [(grids[0], ["model=a"]), (grids[2], ["model=d"])]
    every = ["seed=1", "model=e"]  # which do not: all of them are asked so
    assert _meant(grids, every) == [(grid, every) for grid in grids]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["table9"], ["table='table9'", "there is no", "table/table9.yaml", "Known tables", "table5"]),
        (["table5", "budget.num_step=3"], ["budget.num_step=3", "Did you mean 'num_steps'"]),
        (["table5", "sample.classes=[12]"], ["sample.classes=[12]", "class 12 is unknown"]),
        (["table5", "out=a_file/x"], ["out=a_file/x", "cannot be written"]),
        ([], ["usage: "]),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    arguments: list[str], told: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    monkeypatch.setattr(cq.run.pipeline, "run", lambda *_: pytest.fail("a run was started"))
    # a grid, of which the last job is the bad one
    extra = quick(tiny_folder, tmp_path) if arguments else []
    assert main([*arguments[:1], *extra, *arguments[1:]]) == 2
    message = capsys.readouterr().err
    for part in told:
        assert part in message


@pytest.mark.slow
def test_the_whole_of_table_5_is_filled(tiny_folder: Path, tmp_path: Path) -> None:
    filled = fill("table5", quick(tiny_folder, tmp_path), tmp_path / "report")
    assert filled.failed == 0
    assert filled.ran == len(tables.read_table("table5").rows)
