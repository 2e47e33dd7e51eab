"""Searches of the tiny model: what is asked, what is refused, what goes on, and what is written."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cq.cli.main import main
from cq.core.seeding import SEARCH_SEEDS
from cq.run.compose import composed, composing
from cq.run.ledger import config_digest
from cq.run.objective import Missing, Objective
from cq.run.own import allowing
from cq.run.record_file import read
from cq.search.fresh import Judged, judge
from cq.search.study import Answer, Point, Space, Study, front
from cq.search.tune import Goal, choose, controls_of, verdict
from tests.tiny_runs import quick

optuna = pytest.importorskip("optuna", reason="needs the extra `search`: pip install 'cq[search]'")

UP, DOWN = Objective(key="psnr_fp_db", better="up"), Objective(key="bops_share", better="down")


def study(folder: Path, space: Space) -> Study:
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    return Study(space, (UP, DOWN), storage=f"sqlite:///{folder}/s.db", name=None, sampler=sampler)


def asked(lines: list[tuple[str, ...]], ask: Sequence[tuple[str, ...]]) -> list[Answer]:
    """N costs its share, and DPS is better by 1; N = 4 is refused."""
    answers: list[Answer] = []
    for line in ask:
        lines.append(line)
        values = dict(word.split("=") for word in line)
        n = int(values["n"])
        quality = 40.0 - n + (values["schedule"] == "dps")
        answers.append(Missing(reason="four", refused=True) if n == 4 else (quality, 1.0 / n))
    return answers


def test_a_study_asks_each_point_once_goes_on_and_knows_its_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space.of(["n=range(2,7)", "schedule=uniform,dps", "seed=4000", "n=range(2,6)"])
    assert space.fixed == ("seed=4000",)
    lines: list[tuple[str, ...]] = []
    first = study(tmp_path, space)
    first.search(lambda ask: asked(lines, ask), n_trials=4, n_jobs=1, timeout=None)
    assert len(lines) == 4
    first.optuna.enqueue_trial({"n": 5, "schedule": "dps"})
    first.optuna.ask(space.distributions)  # as if killed in the middle of it

    second = study(tmp_path, space)
    second.search(lambda ask: asked(lines, ask), n_trials=8, n_jobs=2, timeout=None)
    assert sorted(lines) == sorted(set(lines)), "what was asked is not asked again"
    assert len(lines) == 8, "range(2,6) ends before 6"
    assert ("seed=4000", "n=5", "schedule=dps") in lines
    assert set(second.refused) == {"four"}
    assert {len(second.points), len(front(second.points, second.objectives))} == {6, 3}
    assert [point.words for point in front(second.points, second.objectives)] == [
        "n=5 schedule=dps", "n=3 schedule=dps", "n=2 schedule=dps",
    ]  # fmt: skip
    before = len(lines)
    study(tmp_path, space).search(lambda ask: asked(lines, ask), n_trials=8, n_jobs=1, timeout=None)
    assert len(lines) == before
    with monkeypatch.context() as patch:
        patch.setattr("cq.search.study.code_digest", lambda: "edited")
        assert study(tmp_path, space).points == [], "answers of code that was edited since"
    study(tmp_path, Space.of(["n=range(2,9)"])).search(lambda ask: [(1.0, 1.0)], n_trials=9, n_jobs=1, timeout=0)
    assert len(lines) == before


def test_chosen_points_and_controls_run_on_fresh_seeds_with_what_all_runs_say() -> None:
    space = Space.of(["model=m", "seed=4000", "schedule=uniform,dps"])
    point = Point(params={"schedule": "dps"}, overrides=space.overrides({"schedule": "dps"}), values=(30.0, 0.5))
    lines: list[tuple[str, ...]] = []

    def ask(asked: Sequence[tuple[str, ...]]) -> list[Answer]:
        lines.extend(asked)
        return [(20.0, 0.5), (22.0, 0.5), (19.0, 0.4), Missing(reason="lost", refused=False)]

    found, control = judge([point], ["model=n steps=3"], space, seeds=[0, 1], ask=ask)
    assert lines == [
        ("model=m", "schedule=dps", "seed=0"), ("model=m", "schedule=dps", "seed=1"),
        ("model=n", "steps=3", "seed=0"), ("model=n", "steps=3", "seed=1"),
    ]  # fmt: skip
    assert (found.control, found.mean, found.missing) == (False, (21.0, 0.5), "")
    assert (control.control, control.mean, control.missing) == (True, (19.0, 0.4), "lost")


SEARCH = (
    "hydra/sweeper=optuna", "objective=[psnr_fp_db,bops_share]", "schedule=uniform,dps",
    "budget.cache_interval=2,11",  # of 10 steps: every other point is refused
    "hydra.sweeper.n_trials=4", "hydra.sweeper.fresh_seeds=[0]",
    "hydra.sweeper.controls=['schedule=none budget.sample_steps=5']",
)  # fmt: skip


def cq(tiny_folder: Path, root: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    storage = f"hydra.sweeper.storage=sqlite:///{root}/search.db"
    monkeypatch.setattr(sys, "argv", ["cq"])
    return main(["-m", *quick(tiny_folder, root, *arguments), storage, f"hydra.sweep.dir={root}/out"])


def test_a_search_ends_with_a_front_on_fresh_seeds(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cq(tiny_folder, tmp_path, *SEARCH, monkeypatch=monkeypatch) == 0
    told = yaml.safe_load((tmp_path / "out/optimization_results.yaml").read_text())
    assert (told["objectives"], told["points"]) == ({"psnr_fp_db": "up", "bops_share": "down"}, 2)
    assert all("budget.cache_interval=11" in reason for reason in told["refused"])
    *chosen, control = told["solutions"]
    assert control["control"] == "schedule=none budget.sample_steps=5"
    assert [len(each["fresh"]) for each in told["solutions"]] == [1] * len(told["solutions"])
    assert 1 <= len(chosen) <= 2
    records = read(tmp_path / "records.jsonl")
    assert {record.seed for record in records} == {SEARCH_SEEDS.start, 0}
    assert len(records) == 2 + len(told["solutions"])
    assert (tmp_path / "out/front.png").stat().st_size > 1000

    assert cq(tiny_folder, tmp_path, *SEARCH, monkeypatch=monkeypatch) == 0
    assert len(read(tmp_path / "records.jsonl")) == len(records), "the same command runs nothing again"


@pytest.mark.parametrize(
    ("word", "told"),
    [("objective=[psnr]", "objective=psnr"), ("objective=[]", "needs a number"), ("seed=0", "is not judged on them"),
     ("seed=0,1", "is not judged on them")],
)  # fmt: skip
def test_a_search_that_cannot_be_believed_is_refused(
    word: str, told: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [each for each in SEARCH if each.partition("=")[0] != word.partition("=")[0]]
    assert cq(tiny_folder, tmp_path, *given, word, monkeypatch=monkeypatch) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "records.jsonl").exists()


def points(*values: tuple[int, float, float]) -> list[Point]:
    return [
        Point(params={"schedule": "dps", "budget.cache_interval": n}, overrides=(f"n={n}",), values=(quality, cost))
        for n, quality, cost in values
    ]


def test_the_cheapest_within_a_quality_is_so_by_the_worse_end_of_its_interval() -> None:
    lows = {"n=2": 43.0, "n=3": 40.5, "n=5": 39.0}

    def record(line: tuple[str, ...]) -> Any:
        return SimpleNamespace(scores={"psnr_fp_db": {"value": 99.0, "low": lows[line[0]], "high": 99.0}})

    found = points((2, 45.0, 0.5), (3, 42.0, 0.4), (5, 41.0, 0.2), (9, 30.0, 0.1))
    hold = Goal(kind="quality", target=40.0, quality=UP, cost=DOWN)
    chosen = choose(found, hold, record)
    assert chosen is found[1]
    spend = replace(hold, kind="cost", target=0.4)
    assert choose(found, spend, record) is found[1]
    assert choose(found, replace(hold, target=44.0), record) is None
    assert controls_of(found[1], hold, full_steps=40) == [
        "schedule=none quantize=none budget.sample_steps=16",
        "schedule=uniform budget.cache_interval=3",
    ]
    whole = replace(found[0], params={"schedule": "none", "budget.sample_steps": 20})
    assert controls_of(whole, hold, full_steps=40)[1] == (
        "schedule=uniform budget.sample_steps=40 budget.cache_interval=2"
    )
    assert "counted" in hold.meaning
    assert "no speed is claimed" in hold.meaning
    assert "measured: wall clock" in replace(hold, cost=Objective(key="seconds_share", better="down")).meaning


def test_the_verdict_names_a_goal_that_is_missed_and_a_control_that_is_better() -> None:
    goal = Goal(kind="cost", target=0.1, quality=UP, cost=DOWN)

    def on_fresh(words: str, found: tuple[float, float] | None, *values: tuple[float, float]) -> Judged:
        return Judged(words=words, overrides=(), found=found, values=values, missing="")

    chosen = on_fresh("a", (25.0, 0.1), (24.0, 0.1), (25.0, 0.12))
    better, dearer, none = on_fresh("b", None, (26.0, 0.1)), on_fresh("c", None, (30.0, 0.2)), on_fresh("d", None)
    assert verdict([chosen, better, dearer, none], goal) == "On fresh seeds it misses bops_share 0.1; better there: b."
    held = replace(goal, kind="quality", target=24.5)
    assert verdict([chosen, dearer], held) == "On fresh seeds it keeps psnr_fp_db 24.5; no control beats it."
    assert "No fresh seeds" in verdict([none], goal)


TUNE = ("search=joint", "by=bops_share", "evaluate=fidelity", "schedule=uniform,dps", "budget.cache_interval=2,3",
        "quantize=none", "correct@correct.cache=none", "correct@correct.quant=none", "correct@correct.output=none",
        "cost=l1", "budget.weight_bits=8", "hydra.sweeper.n_trials=4", "hydra.sweeper.fresh_seeds=[0]")  # fmt: skip


def tune(tiny_folder: Path, root: Path, *arguments: str) -> int:
    storage = f"hydra.sweeper.storage=sqlite:///{root}/search.db"
    return main(["tune", *arguments, *quick(tiny_folder, root, *TUNE), storage, f"out={root}/tune"])


def test_tune_holds_a_cost_and_says_what_the_choice_is_worth(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    assert tune(tiny_folder, tmp_path, "cost=0.6") == 0
    told = yaml.safe_load((tmp_path / "tune/tuned.yaml").read_text())
    assert told["asked"] == "the best by psnr_fp_db at bops_share 0.6"
    assert "counted" in told["meaning"]
    assert "seed=" not in told["command"]
    assert (Path(told["acceleration"]) / "acceleration.json").exists() or Path(told["acceleration"]).is_dir()
    chosen, steps, *_ = told["found"]
    assert told["verdict"].startswith("On fresh seeds it keeps bops_share 0.6; ")
    assert "1 fresh seeds: psnr_fp_db" in chosen
    assert steps.startswith("control schedule=none quantize=none budget.sample_steps=")
    said = capsys.readouterr().out
    assert told["command"] in said
    # the table asks the same questions, so that they are answered
    alone, table = told["again"]
    assert alone in said
    monkeypatch.setenv("CQ_ALLOW", "")
    digests = []
    for command in (told["command"], alone):
        words = allowing(shlex.split(command)[1:])
        with composing():
            digests.append(config_digest(composed(words)[0]))
    assert {*digests} <= {each.config_digest for each in read(tmp_path / "records.jsonl") if each.seed == 0}
    assert digests[0] == digests[1]
    with (tmp_path / "tune/table/tuned.yaml").open() as file:
        assert list(yaml.safe_load(file)["rows"])[:2] == ["chosen", "control_1"]
    assert main([*shlex.split(table.removeprefix("cq-")), f"out={tmp_path}/report", "seed=0"]) == 0
    assert "chosen: " in capsys.readouterr().out
    assert "has been answered by runs/run" in caplog.text

    assert tune(tiny_folder, tmp_path, "quality=99.5") == 1
    assert "none of 4 configurations" in capsys.readouterr().out
    assert tune(tiny_folder, tmp_path) == 2
    assert "say one of quality=NUMBER" in capsys.readouterr().err
