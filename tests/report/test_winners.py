"""Which rows contest, who wins, and when nobody does."""

from pathlib import Path
from typing import Any

import pytest

from cq.report.build import build_table
from cq.report.paper import Paper, read_paper
from cq.report.render import render_table
from cq.report.winners import winners, winners_frame, winners_markdown
from cq.run.config import PAPER
from cq.run.record import RunRecord
from tests.report.sweep import sweep
from tests.report.synthetic import ablation, record, score


@pytest.fixture(name="paper", scope="module")
def _paper() -> Paper:
    return read_paper(PAPER)


def _run(label: str, schedule: str, values: list[float], **changes: Any) -> list[RunRecord]:
    choices = {"schedule": schedule, "cost": "l1", "quantize": "ptq", **changes.pop("choices", {})}
    return [
        record(label, choices=choices, seed=seed, scores={"frechet_own": score(value)}, **changes)
        for seed, value in enumerate(values)
    ]


def _contests(paper: Paper, *runs: list[RunRecord]) -> list[tuple[str, str]]:
    table = build_table("table5", [one for run in runs for one in run], paper)
    return [(contest.others, contest.text) for contest in winners(table, "frechet_own")]


def test_the_best_of_three_must_beat_both(paper: Paper) -> None:
    a, b = _run("a", "uniform", [10.0, 11.0, 12.0]), _run("b", "dps", [9.0, 10.1, 10.9], row=1)
    assert _contests(paper, a, b) == [("quantize ptq", "dps 10.000, ahead of uniform by 1.000 ± 0.100")]
    c = _run("c", "power", [9.1, 9.9, 11.0], row=2)
    assert _contests(paper, a, b, c) == [
        ("quantize ptq", "undecided: dps 10.000, ahead of power by 0.000 ± 0.173 (uniform 11.000)")
    ]


def test_means_are_over_the_seeds_that_all_have(paper: Paper) -> None:
    a, b = _run("a", "uniform", [10.0, 11.0, 90.0]), _run("b", "dps", [9.0, 9.9], row=1)
    assert _contests(paper, a, b) == [("quantize ptq", "dps 9.450, ahead of uniform by 1.050 ± 0.071")]


def test_one_seed_with_overlapping_intervals_is_undecided(paper: Paper) -> None:
    found = _contests(paper, _run("a", "uniform", [10.0]), _run("b", "dps", [9.5], row=1))
    assert found == [("quantize ptq", "undecided: dps 9.500, ahead of uniform by 0.500")]


def test_rows_that_differ_in_more_than_the_schedule_do_not_contest(paper: Paper) -> None:
    uniform = _run("a", "uniform", [10.0, 11.0])
    others: tuple[dict[str, Any], ...] = (
        {"choices": {"quantize": "minmax"}},
        {"config": {"synthetic": False}},
        {"budget": {**record().budget, "cache_interval": 5}},
        {"model": {"name": "other", "weights_digest": "w"}},
    )
    for place, changes in enumerate(others):
        assert _contests(paper, uniform, _run(f"b{place}", "dps", [9.0, 10.0], row=1, **changes)) == []
    assert _contests(paper, uniform, _run("c", "none", [9.0, 10.0], row=1)) == []


def test_what_cannot_change_an_image_and_the_cost_of_a_planner_do_not_keep_rows_apart(paper: Paper) -> None:
    a = _run("l1", "dps", [10.0, 11.0], config={"seed": 0, "row": 1, "schedule": "s", "cost": "l1", "same": 1})
    b = _run("residual", "dps", [9.0, 10.0], row=1, choices={"cost": "residual"}, config={"cost": "r", "same": 1})
    assert _contests(paper, a, b) == [
        ("quantize ptq", "residual 9.500, ahead of l1 by 1.000 ± 0.000")
    ]  # by label, for both are DPS


def test_a_row_that_failed_leaves_it_undecided_with_its_reason(paper: Paper) -> None:
    a, b = _run("a", "uniform", [10.0, 11.0]), _run("b", "dps", [0.0], row=1, status="failed", note="killed")
    assert _contests(paper, a, b) == [("quantize ptq", "undecided: uniform 10.500, dps failed: killed")]


def test_a_sweep_gives_a_line_a_method_and_a_column_an_interval(paper: Paper, tmp_path: Path) -> None:
    table = build_table("table5", sweep(tmp_path), paper)
    text = winners_markdown(table)
    psnr = text[text.index("## By PSNR") :].splitlines()
    assert [cell.strip() for cell in psnr[2].split("|")[1:-1]] == [
        "all but the schedule", "bits", "N = 5", "N = 10", "N = 20",
    ]  # fmt: skip
    assert [cell.strip() for cell in psnr[4].split("|")[1:3]] == ["cache only", "32/32"]
    lines = [line for line in psnr if line.startswith(("| cache", "| quantize"))]
    assert len(lines) == 7
    assert all(line.split("|")[3].strip().startswith("uniform ") for line in lines)
    assert all(line.split("|")[5].strip().startswith("dps ") for line in lines)
    frame = winners_frame(table)
    assert len(frame) == 2 * 7 * 3
    assert set(frame[(frame["metric"] == "psnr_fp_db") & (frame["cache_interval"] == 20)]["best"]) == {"dps"}


def test_files_only_where_schedules_contest(tmp_path: Path) -> None:
    rendered = render_table("table5", sweep(tmp_path), PAPER, tmp_path, figures=False)
    assert [path.name for path in rendered.files][3:5] == ["table5_winners.md", "table5_winners.csv"]
    assert "nan" not in (tmp_path / "tables/table5_winners.csv").read_text()
    rendered = render_table("table5", ablation(tmp_path), PAPER, tmp_path / "b", figures=False)
    assert not [path for path in rendered.files if "winners" in path.name]


def test_an_unknown_metric_is_named(paper: Paper) -> None:
    with pytest.raises(ValueError, match=r"metric='fid': table 'table5' has \['frechet_own'\]"):
        winners(build_table("table5", [record()], paper), "fid")
