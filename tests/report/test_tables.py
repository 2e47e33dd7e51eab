"""Arithmetic of the tables, what may share a column, and what is never hidden."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from cq.report.build import build_table, build_tables
from cq.report.cells import mean_of
from cq.report.metrics import metric_title
from cq.report.paper import COLUMNS, Paper, read_paper
from cq.report.tables import Table, bars
from cq.run.config import PAPER
from cq.run.record import RunRecord
from tests.report.synthetic import ablation, record, score

FRECHET = "Frechet, own features (down)"


@pytest.fixture(name="paper")
def _paper() -> Paper:
    return read_paper(PAPER)


def _three(values: list[float], paper_rows: list[str]) -> list[RunRecord]:
    return [
        record(f"row {place}", row=place, paper_row=key, scores={"frechet_own": score(value)})
        for place, (value, key) in enumerate(zip(values, paper_rows, strict=True))
    ]


def _cells(table: Table, column: str) -> list[str]:
    return list(table.frame()[column])


def test_mean_and_spread_are_those_of_the_statistics_module(paper: Paper) -> None:
    values = [10.0, 11.5, 14.25]
    records = [record(seed=seed, scores={"frechet_own": score(value)}) for seed, value in enumerate(values)]
    table = build_table("table5", records, paper)
    stat = table.rows[0].scores["frechet_own"]
    assert stat.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert stat.spread == pytest.approx(statistics.stdev(values), rel=1e-15)
    assert _cells(table, FRECHET) == ["11.917 ± 2.155"]
    assert _cells(table, "seeds") == ["3 seeds"]


def test_one_seed_shows_its_bootstrap_interval_and_says_so(paper: Paper) -> None:
    table = build_table("table5", [record()], paper)
    assert _cells(table, FRECHET) == ["10.000 [9.500, 10.500]"]
    assert _cells(table, "seeds") == ["1 seed"]


def test_an_incomplete_run_keeps_the_scores_it_has_and_says_what_is_missing(paper: Paper) -> None:
    table = build_table("table5", [record(status="incomplete", note="fid_clean needs its weights")], paper)
    assert _cells(table, "status") == ["incomplete: fid_clean needs its weights"]
    assert _cells(table, "seeds") == ["1 seed"]
    assert _cells(table, FRECHET) != ["-"]


def test_equal_infinite_values_have_an_infinite_mean_and_no_spread() -> None:
    stat = mean_of([float("inf"), float("inf")])
    assert (stat.mean, stat.spread) == (float("inf"), 0.0)


def test_mixed_protocols_are_refused_with_rows_and_fields(paper: Paper) -> None:
    records = [record("a"), record("b", scores={"frechet_own": score(9.0, num_images=32)})]
    with pytest.raises(ValueError, match=r"frechet_own: rows 'a' .* and 'b' .* num_images: 64 against 32"):
        build_table("table5", records, paper)


def test_own_and_inception_features_stand_in_separate_columns(paper: Paper) -> None:
    scores = {"frechet_own": score(9.0), "fid": score(3.0, metric="fid"), "kid_own": score(0.1, metric="kid_own")}
    frame = build_table("table5", [record(scores=scores)], paper).frame()
    assert [name for name in frame.columns if name.endswith(("(down)", "(up)"))] == [
        FRECHET,
        "FID, Inception features (down)",
        "KID, own features (down)",
    ]


def test_metric_titles_say_direction_unit_and_against_what() -> None:
    assert metric_title("psnr_fp_db", "up") == "PSNR vs full precision, dB (up)"
    assert metric_title("frechet_own", "down") == FRECHET
    assert metric_title("sfid_own", "down") == "sFID, own features (down)"
    assert metric_title("fid_clean", "down") == "FID (clean), Inception features (down)"
    assert metric_title("sfid", "down") == "sFID, Inception features (down)"
    assert metric_title("recall_own", "up") == "recall, own features (up)"
    assert metric_title("clip_score_own", "up") == "CLIP score, own features (up)"
    assert metric_title("clip_score_vit_b_32_openai", "up") == "CLIP score (vit b 32 openai) (up)"
    assert metric_title("latent_error_fp", "down") == "latent error, relative vs full precision (down)"
    assert metric_title("kid_efficientnet", "down") == "KID, EfficientNet-Lite0 features (down)"
    assert (
        metric_title("kid_difference_efficientnet_fp", "down")
        == "KID difference, EfficientNet-Lite0 features vs full precision (down)"
    )
    assert metric_title("something_new_ref", "up") == "something new vs data (up)"


def test_failed_rows_stay_with_their_reason(paper: Paper, tmp_path: Path) -> None:
    broken = record("broken", row=9, status="failed", note="out of memory at batch 64", scores={}, counted={})
    table = build_table("table5", [*ablation(tmp_path), broken], paper)
    assert len(table.rows) == 8
    assert table.frame()["status"].to_list()[-2:] == [
        "not run: needs reconstruction, which is not built yet",
        "failed: out of memory at batch 64",
    ]
    assert _cells(table, FRECHET)[-2:] == ["-", "-"]


def test_a_failed_seed_is_counted_beside_those_that_ran(paper: Paper) -> None:
    table = build_table("table5", [record(), record(seed=1, status="failed", note="killed", scores={})], paper)
    assert _cells(table, "status") == ["1 of 2 seeds failed: killed"]
    assert _cells(table, "seeds") == ["1 seed"]


def test_null_measured_is_a_dash_and_fake_quantization_is_called_simulated(paper: Paper) -> None:
    timed = {"seconds_per_image": 0.25, "peak_mem_mib": 12.0, "device": "synthetic"}
    full = record("full", row=1, choices={"quantize": "none"}, measured=timed)
    kernels = record("kernels", row=2, measured=timed, executed="Int8")
    frame = build_table("table5", [record(), full, kernels], paper).frame()
    assert frame["s/image (measured)"].to_list() == ["-", "0.2500", "0.2500"]
    assert frame["low-bit arithmetic"].to_list() == ["simulated", "-", "executed"]
    assert frame["bits"].to_list() == ["W8A8", "32/32", "W8A8"]
    assert frame["BOPs a call, mean (counted)"].to_list() == ["153.600 M"] * 3


def test_later_runs_replace_earlier_ones_and_changed_configurations_are_noted(paper: Paper) -> None:
    old = record(scores={"frechet_own": score(99.0)})
    assert _cells(build_table("table5", [old, record()], paper), FRECHET) == ["10.000 [9.500, 10.500]"]
    changed = replace(record(), config_digest="f" * 64)
    table = build_table("table5", [old, changed], paper)
    assert _cells(table, FRECHET) == ["10.000 [9.500, 10.500]"]
    assert table.superseded == (old.key,)


def test_a_rerun_of_an_older_configuration_is_the_latest(paper: Paper) -> None:
    changed = record(config_digest="f" * 64, scores={"frechet_own": score(99.0)})
    assert _cells(build_table("table5", [record(), changed, record()], paper), FRECHET) == ["10.000 [9.500, 10.500]"]


def test_one_experiment_on_two_models_gives_two_rows(paper: Paper) -> None:
    other = replace(record(), config_digest="f" * 64, model={**record().model, "name": "other"})
    table = build_table("table5", [record(), other], paper)
    assert [row.model for row in table.rows] == [record().model["name"], "other"]
    assert table.superseded == ()


def test_fewer_steps_are_judged_against_the_full_length(paper: Paper) -> None:
    uncached = {"counted": {**record().counted, "num_refreshes": record().counted["num_calls"]}}
    full = record("full", choices={"quantize": "none"}, **uncached)
    short = record("short", row=1, choices={"quantize": "none"}, **uncached)
    steps = full.budget["num_steps"]
    full = replace(full, config={**full.config, "baseline": {"num_steps": steps, "sampler": "ddim"}})
    short = replace(short, config={**short.config, "baseline": {"num_steps": 2 * steps, "sampler": "ddim"}})
    rows = build_table("table5", [full, short], paper).rows
    assert [row.is_full_precision for row in rows] == [True, False]
    assert [row.baseline_steps for row in rows] == [steps, 2 * steps]


def test_two_experiments_cannot_claim_one_seed_of_a_row(paper: Paper) -> None:
    with pytest.raises(ValueError, match="seed=0 of row 'same'"):
        build_table("table5", [record("same"), record("same", experiment="synthetic/other")], paper)


def test_budgets_part_rows_of_one_label(paper: Paper) -> None:
    budget = dict(record().budget)
    four = record(experiment="synthetic/w4", budget={**budget, "weight_bits": 4})
    table = build_table("table5", [record(), four], paper)
    assert [row.title for row in table.rows] == ["synthetic row, W8A8", "synthetic row, W4A8"]


def test_a_table_without_records_names_those_that_have_some(paper: Paper) -> None:
    with pytest.raises(ValueError, match=r"table='table3'.*\['table5'\]"):
        build_table("table3", [record()], paper)


def test_published_numbers_are_matched_by_key(paper: Paper) -> None:
    table = build_table("table5", _three([1.0, 2.0, 3.0], ["naive", "", "table2/cachequant_n5_w8a8"]), paper)
    assert _cells(table, "paper FID") == ["15.36", "-", "4.03"]
    assert _cells(table, "paper IS") == ["121.78 †", "-", "-"]
    assert _cells(table, "paper speedup") == ["-", "-", "7.87x"]


def test_an_unknown_paper_row_is_noted_not_hidden(paper: Paper) -> None:
    table = build_table("table5", [record(paper_row="dps_dce")], paper)
    assert table.unmatched == ("dps_dce",)


def test_paper_csv_names_whole_rows_and_holds_the_ablation() -> None:
    paper = read_paper(PAPER)
    fid = {key: found["FID"].value for key in paper.keys("table5") if (found := paper.find("table5", key))}
    assert fid == {
        "full_precision": 3.37, "quant_only": 4.13, "deepcache": 8.08, "naive": 15.36, "dps": 8.47, "dps_dec": 7.21,
        "dps_dec_recon": 6.34,
    }  # fmt: skip


def test_a_repeated_paper_cell_is_refused(tmp_path: Path) -> None:
    line = "table5,naive,m,d,1,x,,8,8,FID,1.0,,exact,s,high"
    path = tmp_path / "paper.csv"
    path.write_text("\n".join([",".join(COLUMNS), line, line]) + "\n")
    with pytest.raises(ValueError, match=r"line 3: .*appears twice"):
        read_paper(path)


def test_confidence_is_seen_beside_the_number_and_told_to_machines(paper: Paper) -> None:
    table = build_table("table5", _three([1.0, 2.0], ["full_precision", "figure6/imagenet_cachequant_n20_w8a8"]), paper)
    assert _cells(table, "paper FID") == ["3.37 †", "about 7.17 †"]
    assert table.numbers()["paper_FID_confidence"].to_list() == ["medium", "medium"]


def test_an_unknown_confidence_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text("\n".join([",".join(COLUMNS), "table5,naive,m,d,1,x,,8,8,FID,1.0,,exact,s,sure"]) + "\n")
    with pytest.raises(ValueError, match=r"line 2: confidence='sure' must be one of"):
        read_paper(path)


def test_needs_is_a_column_that_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    line = "table5,naive,m,d,1,x,,8,8,FID,1.0,,exact,s,high"
    for heads, cells, needs in ((COLUMNS, line, ""), ((*COLUMNS, "needs"), f"{line},a GPU", "a GPU")):
        path.write_text(",".join(heads) + f"\n{cells}\n")
        found = read_paper(path).find("table5", "naive")
        assert found is not None
        assert found["FID"].needs == needs


def test_models_measured_apart_are_a_table_each(paper: Paper) -> None:
    """Their numbers share no column; what the paper has and neither ran is listed below both."""
    apart = {"frechet_own": {**score(3.0), "fingerprint": "other"}}
    other = record(config_digest="f" * 64, model={**record().model, "name": "other"}, scores=apart)
    first, second = build_tables("table5", [record(), other], paper)
    assert (first.name, second.name) == ("table5_synthetic", "table5_other")
    assert first.title == "table5_synthetic: Ablation of the parts"
    assert [row.model for row in (*first.rows, *second.rows)] == ["synthetic", "other"]
    assert first.not_run == second.not_run == build_table("table5", [record()], paper).not_run
    alike = replace(record(), config_digest="f" * 64, model={**record().model, "name": "other"})
    assert [table.name for table in build_tables("table5", [record(), alike], paper)] == ["table5"]
    torn = replace(other, seed=1, scores=record().scores)  # within one model it is still refused
    with pytest.raises(ValueError, match="were not measured alike"):
        build_tables("table5", [record(), other, torn], paper)


def test_a_figure_says_what_its_bars_are(paper: Paper) -> None:
    one, first, second = record("one"), record("two"), record("two", seed=1)
    deviation, interval = "standard deviation over seeds", "bootstrap interval of one seed"
    assert bars(build_table("table5", [one], paper).rows) == interval
    assert bars(build_table("table5", [first, second], paper).rows) == deviation
    assert bars(build_table("table5", [one, first, second], paper).rows) == f"{deviation}, or {interval}"
