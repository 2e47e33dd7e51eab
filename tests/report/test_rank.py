"""Rows in order, within budgets; what the data cannot tell apart shares a rank."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cq.cli.report import main
from cq.report.build import build_table
from cq.report.paper import read_paper
from cq.report.quantities import bound, named
from cq.report.rank import Ranking, ranking
from cq.report.tables import Table
from cq.run.config import PAPER
from cq.run.record import RunRecord
from cq.run.record_file import append
from tests.report.synthetic import CALLS, ablation, record, score


def table_of(records: Sequence[RunRecord]) -> Table:
    return build_table("table5", records, read_paper(PAPER))


def row(label: str, values: Sequence[float], bops: float = 1e9, **changes: Any) -> list[RunRecord]:
    """A configuration with one seed a value of PSNR."""
    counted = {**record().counted, "bops_mean": bops}
    return [
        record(label, seed=seed, counted=counted, scores={"psnr_fp_db": score(value, better="up")}, **changes)
        for seed, value in enumerate(values)
    ]


def order(found: Ranking) -> list[tuple[int, str]]:
    return [(place.rank, place.row.title) for place in found.places]


def test_ranks_are_shared_where_seeds_do_not_decide() -> None:
    rows = [*row("far", [20.0, 21.0, 22.0]), *row("best", [30.0, 31.0, 32.0]), *row("near", [29.9, 31.1, 31.8])]
    found = ranking(table_of(rows))
    assert order(found) == [(1, "best"), (1, "near"), (3, "far")]
    cells = [line[2] for line in found.lines()[1:]]
    assert cells == ["-", "-0.07 ± 0.15, undecided", "-10.00 ± 0.00"]
    assert [line[0] for line in found.lines()[1:]] == [" 1= best", " 1= near", " 3. far"]


def test_seeds_that_only_some_rows_have_do_not_rank_them() -> None:
    """The third seed is an easy one; over the two that both rows have, the other row is better."""
    rows = [*row("two seeds", [30.0, 31.0]), *row("three seeds", [29.0, 30.0, 90.0])]
    found = ranking(table_of(rows))
    assert order(found) == [(1, "two seeds"), (2, "three seeds")]
    assert "printed are means over each row's own" in " ".join(found.notes())
    assert "printed are" not in " ".join(ranking(table_of(rows[:4])).notes())


def test_equal_images_come_first_and_the_others_keep_their_order() -> None:
    """Their PSNR is infinite; one that is no number has no place."""
    rows = [*row("a", [20.0, 21.0]), *row("same", [math.inf, math.inf]), *row("b", [30.0, 31.0, 90.0])]
    found = ranking(table_of([*rows, *row("broken", [math.nan, 40.0])]))
    assert order(found) == [(1, "same"), (2, "b"), (3, "a")]
    assert [place.value for place in found.places] == [math.inf, 30.5, 20.5]
    assert found.same_seeds
    assert [(why, [each.title for each in rows]) for why, rows in found.left_out.items()] == [
        ("for PSNR vs full precision, dB is not a number", ["broken"])
    ]


def test_equal_costs_share_a_rank_over_any_seeds() -> None:
    rows = [*row("two seeds", [1.0, 2.0]), *row("three seeds", [1.0, 2.0, 3.0]), *row("dear", [1.0], bops=2e9)]
    assert order(ranking(table_of(rows), "bops_image")) == [(1, "three seeds"), (1, "two seeds"), (3, "dear")]


def test_a_budget_leaves_out_what_costs_more_and_what_has_no_such_cost(tmp_path: Path) -> None:
    table = table_of(ablation(tmp_path))
    under = [bound("bops_mean=1G", table.metrics, at_least=False)]
    found = ranking(table, "frechet_own", under)
    assert [title for _, title in order(found)] == [
        "quantized only", "quantized + DPS + DEC-cache", "quantized + DPS", "cached and quantized, plainly combined"
    ]  # fmt: skip
    assert [row.title for row in found.left_out["not within BOPs a call, mean (counted) at most 1.000 G"]] == [
        "full precision", "cached, uniform"
    ]  # fmt: skip
    assert any("not run: needs reconstruction" in why for why in found.left_out)
    timed = ranking(table, "frechet_own", [bound("seconds=1", table.metrics, at_least=False)])
    assert [title for _, title in order(timed)] == ["full precision", "cached, uniform"]
    assert any("fake quantization is never timed: quantized only" in note for note in timed.notes())
    assert "Scores of quantized rows are simulated: under fake quantization, which is never timed." in found.notes()
    assert "4 of 7 rows are shown." in found.notes()


def test_what_a_metric_compares_with_has_no_rank() -> None:
    whole = {**record().counted, "num_refreshes": CALLS}
    itself = record(
        "itself", counted=whole, choices={"quantize": "none"}, scores={"psnr_fp_db": score(99, better="up")}
    )
    found = ranking(table_of([itself, *row("cached", [30.0])]))
    assert order(found) == [(1, "cached")]
    assert [row.title for row in found.left_out["for PSNR vs full precision, dB compares with it"]] == ["itself"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bops=1G", r"--under bops=1G: there is no 'bops' here. Did you mean 'bops_\w+'\?"),
        ("memory=2G", r"'2G' is no number of peak_mem_mib.*MiB, GiB"),
        ("N", "says no limit"),
        ("psnr_fp_db=1.2.3", "is no number of psnr_fp_db"),
    ],
)
def test_a_budget_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        bound(text, table_of(row("one", [30.0])).metrics, at_least=False)


def test_units_and_directions(tmp_path: Path) -> None:
    metrics = table_of(ablation(tmp_path)).metrics
    assert named("memory", metrics, "").number("1.5GiB", "") == 1536
    assert named("bops_image", metrics, "").number("2.5 T", "") == 2.5e12
    with pytest.raises(ValueError, match="neither better nor worse"):
        ranking(table_of(ablation(tmp_path)), "N")


def test_times_of_two_machines_share_no_order() -> None:
    measured = {"seconds_per_image": 1.0, "peak_mem_mib": 1.0}
    rows = [
        run
        for device in "ab"
        for run in row(device, [30.0], measured={**measured, "device": device}, choices={"quantize": "none"})
    ]
    with pytest.raises(ValueError, match=r"device=a \(a\) and device=b \(b\), which do not compare"):
        ranking(table_of(rows), "seconds")


def test_the_command_says_it_within_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in ablation(tmp_path):
        append(each, tmp_path / "runs.jsonl")
    asked = ["rank", "--records", str(tmp_path / "runs.jsonl"), "--by", "latent_error_fp", "--under", "N=20"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 120
    assert told.index("1. cached, uniform") < told.index("2. quantized + DPS + DEC-cache") < told.index("In every row")
    assert "Left out, without N: quantized only." in told
    assert main([*asked[:-1], "N=twenty"]) == 2
    assert "cq-report rank: --under N=twenty: 'twenty' is no number" in capsys.readouterr().err


def test_ones_own_runs_come_before_committed_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    append(row("committed", [30.0])[0], Path("results/runs_table5.jsonl"))
    assert main(["rank"]) == 0
    assert " 1. committed" in capsys.readouterr().out
    append(row("own", [30.0], table="runs")[0], Path("runs/records.jsonl"))
    for asked, told in (("", " 1. own"), ("runs", " 1. own"), ("table5", " 1. committed")):
        assert main(["rank", *filter(None, [asked])]) == 0
        assert told in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["rank", "pareto", "diff", "page"])
def test_an_empty_record_file_is_said(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    path.touch()
    what = {"diff": ["1", "2"], "page": ["1"]}.get(verb, [])
    assert main([verb, *what, "--records", str(path)]) == 2
    said = capsys.readouterr().err
    assert "no run" in said or "no record in it" in said
    assert "Run `cq` first" in said
