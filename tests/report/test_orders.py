"""When an order is decided, and what the report says about the paper's."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from cq.report.build import build_table
from cq.report.orders import order_sentences
from cq.report.paired import Comparison, chance, compare, rule
from cq.report.paper import Paper, read_paper
from cq.report.tables import Table
from cq.run.config import PAPER
from cq.run.record import RunRecord
from tests.report.sweep import sweep
from tests.report.synthetic import record, score


@pytest.fixture(name="paper", scope="module")
def _paper() -> Paper:
    return read_paper(PAPER)


def _runs(rows: dict[str, list[float]], key: str = "frechet_own", better: str = "down") -> list[RunRecord]:
    """One row a published key, one value a seed; NaN for a seed that did not run."""
    return [
        record(
            f"our {paper_row}",
            row=place,
            paper_row=paper_row,
            seed=seed,
            scores={key: score(value, better=better, metric=key)},
        )
        for place, (paper_row, values) in enumerate(rows.items())
        for seed, value in enumerate(values)
        if not math.isnan(value)
    ]


def _table(paper: Paper, rows: dict[str, list[float]], key: str = "frechet_own", better: str = "down") -> Table:
    return build_table("table5", _runs(rows, key, better), paper)


def _compared(paper: Paper, rows: dict[str, list[float]]) -> Comparison:
    table = _table(paper, rows)
    old, new = table.rows
    found = compare(old, new, table.metrics[0])
    assert found is not None
    return found


def test_the_difference_is_paired_so_that_what_seeds_share_does_not_count(paper: Paper) -> None:
    naive, dps = [10.0, 20.0, 30.0], [9.0, 18.9, 29.2]
    found = _compared(paper, {"naive": naive, "dps": dps})
    differences = [new - old for old, new in zip(naive, dps, strict=True)]
    assert found.difference.mean == pytest.approx(statistics.mean(differences))
    assert found.difference.spread == pytest.approx(statistics.stdev(differences))
    assert found.winner == 1


@pytest.mark.parametrize(
    ("dps", "winner"),
    [
        ([9.0, 8.9, 9.2], 1),
        ([11.0, 11.2, 10.9], -1),
        ([9.0, 8.9, 10.1], 0),  # one seed disagrees
        ([9.99, 7.0, 9.99], 0),  # all agree, yet the spread exceeds the mean
        ([10.0, 10.0, 10.0], 0),
        ([math.inf, math.inf, math.inf], None),
    ],
)
def test_an_order_needs_all_seeds_and_a_mean_beyond_the_spread(
    paper: Paper, dps: list[float], winner: int | None
) -> None:
    table = _table(paper, {"naive": [10.0, 10.0, 10.0], "dps": dps})
    old, new = table.rows
    found = compare(old, new, table.metrics[0])
    assert (found and found.winner) == winner


def test_only_common_seeds_are_compared(paper: Paper) -> None:
    found = _compared(paper, {"naive": [10.0, 10.0, 99.0], "dps": [9.0, 8.5, math.nan]})
    assert (found.num_seeds, found.old, found.new) == (2, 10.0, 8.75)


def test_one_seed_is_decided_by_the_bootstrap_intervals(paper: Paper) -> None:
    assert _compared(paper, {"naive": [10.0], "dps": [8.9]}).winner == 1  # intervals reach 0.5 to each side
    assert _compared(paper, {"naive": [10.0], "dps": [9.1]}).winner == 0


def test_chance_is_that_of_students_t() -> None:
    assert chance(2) == pytest.approx(1 - 2 / math.pi * math.atan(math.sqrt(2)))
    assert chance(3) == pytest.approx(1 - math.sqrt(3 / 5))
    assert "39 % with 2 seeds, 23 % with 3 seeds" in rule({3, 2})
    assert "bootstrap" not in rule({3})
    assert "bootstrap" in rule({1, 3})


def test_sentences_say_holds_reversed_and_undecided(paper: Paper) -> None:
    rows = {"naive": [15.0, 15.2, 15.1], "dps": [9.0, 9.2, 9.1], "dps_dec": [9.1, 9.1, 9.2]}
    (_, first), (heading, lines) = order_sentences(_table(paper, rows))
    assert first[0].startswith("Rule: ")
    assert first[1] == "The paper's order is that of T = 250, N = 20, W8A8, LDM-4 (cin256-v2)."
    assert heading == "By Frechet, own features (down)"
    assert lines == [
        "3 seeds: our naive -> our dps holds (paper: FID 15.36 > 8.47; here: 15.100 to 9.100, -6.000 ± 0.000); "
        "our dps -> our dps_dec is undecided (paper: FID 8.47 > 7.21; here: 9.100 to 9.133, +0.033 ± 0.115).",
        "Within one budget the paper's order holds in 1, is reversed in 0, is undecided in 1 of 2 comparisons.",
    ]
    turned = order_sentences(_table(paper, {"naive": [1.0, 1.1], "dps": [2.0, 2.2]}))[1][1]
    assert "our naive -> our dps is reversed (" in turned[0]


def test_better_means_up_for_psnr(paper: Paper) -> None:
    table = _table(paper, {"naive": [14.0, 15.0], "dps": [20.0, 21.0]}, "psnr_fp_db", "up")
    assert "our naive -> our dps holds (" in order_sentences(table)[1][1][0]


def test_an_order_with_a_row_that_did_not_run_cannot_be_told(paper: Paper) -> None:
    good, bad = record("good", paper_row="naive"), record("bad", row=1, paper_row="dps", status="failed", note="why")
    sections = order_sentences(build_table("table5", [good, replace(bad, scores={})], paper))
    assert sections[-1][1] == ["good -> bad cannot be told (paper: FID 15.36 > 8.47; here: 'bad' is failed: why)."]


def test_every_budget_is_asked_and_full_precision_is_not_compared_with_itself(paper: Paper, tmp_path: Path) -> None:
    table = build_table("table5", sweep(tmp_path), paper)
    sections = dict(order_sentences(table))
    psnr = sections["By PSNR vs full precision, dB (up)"]
    starts = [f"N = {interval}, W{bits}A8, 3 seeds: " for bits in (8, 4) for interval in (5, 10, 20)]
    for line, start in zip(psnr, starts, strict=False):
        assert line.startswith(start)
        assert line.count(" -> ") == 2
    assert "is reversed" in psnr[0]  # as the sweep was made: DPS is better at N = 20 only
    assert "is reversed" not in psnr[2]
    assert psnr[-1].startswith("Across budgets, 3 seeds: cache only, uniform -> quantized only holds")
    frechet = sections["By Frechet, own features (down)"]
    assert frechet[-1].startswith("Across budgets, 3 seeds: full precision -> cache only, uniform holds")


def test_no_published_pair_no_section(paper: Paper) -> None:
    assert order_sentences(_table(paper, {"naive": [1.0, 2.0]})) == []
