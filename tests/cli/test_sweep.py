"""A sweep says how far it is, stops at a failure where it shall, and lists what ended badly with its command."""

import logging
import shlex
import sys
from pathlib import Path

import pytest

import cq.cli.sweep
import cq.run.pipeline
from cq.cli.run import main
from cq.cli.sweep import Cell, Live, Sweep, noted, progress, seconds_left, summary
from cq.run.components import Components
from cq.run.record_file import read
from cq.run.tracking import RunLog
from tests.tiny_runs import quick


def cell(status: str, **fields: object) -> Cell:
    return Cell(status=status, **fields)  # type: ignore[arg-type]


def test_the_expected_end_is_that_of_the_cells_that_are_done() -> None:
    done = [cell("done", seconds=10.0), cell("done", seconds=20.0)]
    waiting = [cell("waiting")] * 4
    assert seconds_left([*waiting], 0.0) is None  # neither a plan nor a cell that is done
    assert seconds_left([*done, *waiting], 0.0) == 4 * 15
    assert seconds_left([*done, cell("recorded"), cell("failed", seconds=1.0), *waiting], 0.0) == 4 * 15
    assert seconds_left([*done, cell("running", began=95.0), *waiting], 100.0) == 4 * 15 + 10
    side_by_side = [*done, *[cell("running", began=95.0)] * 2, *waiting]
    assert seconds_left(side_by_side, 100.0) == (4 * 15 + 2 * 10) / 2
    assert seconds_left([*done, cell("running", began=0.0)], 100.0) == 0  # late, not early


def test_a_plan_says_the_end_before_a_cell_is_done_and_weighs_the_cells_afterwards() -> None:
    waiting = [cell("waiting", planned=100.0), cell("waiting", planned=20.0)]
    assert seconds_left(waiting, 0.0) == 120
    assert seconds_left([cell("recorded"), *waiting], 0.0) == 120
    done = cell("done", planned=60.0, seconds=120.0)
    assert seconds_left([done, *waiting], 0.0) == 120 * (120 + 60) / (60 + 60)  # two did, and one as planned
    late = seconds_left([cell("done", planned=1.0, seconds=45.0), *waiting], 0.0)
    assert late is not None
    assert late < 2.1 * 120  # not 45 times


def test_progress_is_one_line() -> None:
    cells = [cell("done", seconds=60.0), cell("recorded"), cell("failed"), cell("running", began=0.0), cell("waiting")]
    told = progress(cells, 30.0)
    assert told.startswith("sweep: 2 of 5 cells done (1 recorded before), 1 failed, 1 running; about 90 s left"[:70])
    assert progress([cell("done", seconds=1.0)], 0.0) == "sweep: 1 of 1 cells done"


def test_the_summary_names_what_differs_and_how_to_run_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["model=ldm_mini", "seed=0"]
    cells = [
        cell("done", arguments=[*common, "schedule=uniform"]),
        cell("failed", arguments=[*common, "schedule=dps", "sample.classes=[1, 2]"], reason="it broke"),
        cell("not run", arguments=[*common, "schedule=power"]),
    ]
    lines = summary(cells)
    assert lines[:2] == ["1 of 3 cells did not end well:", "  failed: schedule=dps sample.classes=[1, 2]: it broke"]
    again = shlex.split(lines[2].partition("again: ")[2])
    assert again == ["cq", *common, "schedule=dps", "sample.classes=[1, 2]"]
    with monkeypatch.context() as patch:
        patch.setattr("cq.cli.sweep.said", lambda: ("cq.allow=mine",))
        assert "again: cq cq.allow=mine model=ldm_mini " in summary(cells)[2]
    assert lines[3:5] == ["1 cells were not run, for fail_fast=true:", "  schedule=power"]
    assert summary(cells[:1]) == []
    assert "  stopped: " in summary([cells[0], cell("running", arguments=[*common, "x=1"])])[1]


def test_where_there_is_no_terminal_the_log_says_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cq.cli.sweep, "LOOK", 0.01)
    monkeypatch.setattr(cq.cli.sweep, "SAY", 0.0)
    cells = [cell("running", began=0.0), cell("waiting")]
    with Live(lambda: cells):
        pass
    assert caplog.messages == []  # nothing has ended
    cells[0] = cell("done", seconds=1.0)
    with Live(lambda: cells):
        pass
    assert [message.partition(";")[0] for message in caplog.messages] == ["sweep: 1 of 2 cells done"]


@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_failed_cell_stays_and_the_others_go_on_unless_asked_otherwise(
    fail_fast: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cq"])
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))  # which Hydra sets anew
    made = cq.run.pipeline.run

    def broken(parts: Components, live: RunLog) -> object:
        if parts.sample.num_images == 3:
            raise RuntimeError("this cell broke")
        return made(parts, live)

    arguments = ["-m", *quick(tiny_folder, tmp_path, "sample.num_images=2,3,4", "hydra.sweep.dir=sweep")]
    with monkeypatch.context() as patch:
        patch.setattr(cq.run.pipeline, "run", broken)
        assert main([*arguments, f"fail_fast={str(fail_fast).lower()}"]) == 1
    told = capsys.readouterr().err
    assert "1 of 3 cells did not end well:" in told
    assert "failed: sample.num_images=3: single run: this cell broke" in told
    assert ("1 cells were not run, for fail_fast=true:\n  sample.num_images=4\n" in told) == fail_fast
    end = "not run" if fail_fast else "done"
    assert [each.status for each in noted(tmp_path / "sweep/cells")] == ["done", "failed", end]
    assert [record.status for record in read(tmp_path / "records.jsonl")] == ["ok", "failed", "ok"][: 3 - fail_fast]
    assert main(arguments) == 0  # the same command: only what is missing is run
    status = ["recorded", "done", "done" if fail_fast else "recorded"]
    assert [each.status for each in noted(tmp_path / "sweep/cells")] == status
    assert len(read(tmp_path / "records.jsonl")) == 4
    assert Sweep.running is None
