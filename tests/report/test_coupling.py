"""What each technique loses alone and combined, and how long a configuration takes to prepare."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cq.report.budgets import choose
from cq.report.build import build_table
from cq.report.coupling import coupling_frame, coupling_markdown, couplings, loss_columns, losses, published_losses
from cq.report.gallery import write_figures
from cq.report.looks import looks_of
from cq.report.making import preparation, stages_of
from cq.report.panels import coupling_figure, preparation_figure
from cq.report.paper import Paper, read_paper
from cq.report.preparation import preparation_frame, preparation_markdown
from cq.report.tables import Table
from cq.run.config import PAPER
from cq.run.record import PREPARATION, RunRecord
from tests.report.sweep import sweep
from tests.report.synthetic import record

UNIFORM = ("quantized only", "cache only, uniform", "quantized + uniform cache (naive)")


@pytest.fixture(name="paper", scope="module")
def _paper() -> Paper:
    return read_paper(PAPER)


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    return sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(name="table", scope="module")
def _table(runs: list[RunRecord], paper: Paper) -> Table:
    return build_table("table5", runs, paper)


def test_rows_are_found_by_what_they_are_and_not_by_their_names(runs: list[RunRecord], paper: Paper) -> None:
    anonymous = [replace(run, label=f"row {run.row}", paper_row="") for run in runs]
    found = couplings(build_table("table5", anonymous, paper).rows, paper)
    assert len(found) == 2 * 3 * 2  # schedules, intervals, widths
    for coupling in found:
        n, bits = coupling.both.budget["cache_interval"], coupling.both.bits
        assert coupling.exact.is_full_precision
        assert (coupling.quantized.bits, coupling.quantized.budget["cache_interval"]) == (bits, None)
        assert (coupling.cached.bits, coupling.cached.budget["cache_interval"]) == ("32/32", n)
        assert coupling.cached.records[0].choices["schedule"] == coupling.schedule
        assert coupling.both.label in ("row 4", "row 5")
    assert published_losses(found) == ()


def test_rows_of_other_models_samplers_or_corrections_are_no_parts(runs: list[RunRecord], paper: Paper) -> None:
    def without(label: str, **choices: str) -> int:
        changed = [replace(run, choices={**run.choices, **choices}) if run.label == label else run for run in runs]
        return len(couplings(build_table("table5", changed, paper).rows, paper))

    assert without("cache only, uniform", correct_cache="channel_affine") == 6
    assert without("cache only, uniform", predict="taylor1") == 6
    assert without("cache only, uniform", predict="last") == 12
    assert without("full precision", sampler="plms") == 0
    assert without("quantized only", quantize="minmax") == 0
    other = [replace(run, model={**run.model, "name": "b"}) for run in runs if run.label == "quantized only"]
    rest = [run for run in runs if run.label != "quantized only"]
    assert couplings(build_table("table5", [*rest, *other], paper).rows, paper) == []


def test_losses_are_differences_to_full_precision_seed_by_seed(table: Table, paper: Paper) -> None:
    frechet, latent = loss_columns(table)
    assert (frechet.key, latent.key) == ("frechet_own", "latent_error_fp")
    coupling = couplings(choose(table.rows).rows, paper)[0]

    def values(row: int, key: str) -> list[float]:
        rows = (coupling.exact, coupling.quantized, coupling.cached, coupling.both)
        return [run.scores[key]["value"] for run in sorted(rows[row].records, key=lambda run: run.seed)]

    loss = losses(coupling, frechet)
    assert loss is not None
    quantized, cached, total, _ = loss.per_seed
    for seed, zero in enumerate(values(0, "frechet_own")):
        assert quantized[seed] == values(1, "frechet_own")[seed] - zero
        assert total[seed] == pytest.approx(quantized[seed] + cached[seed])
    error = losses(coupling, latent)
    assert error is not None
    assert list(error.per_seed[3]) == values(3, "latent_error_fp")
    assert error.excess.mean == pytest.approx(error.stats[3].mean - error.stats[0].mean - error.stats[1].mean)


@pytest.mark.parametrize(("factor", "words"), [(3.0, "more than the sum"), (0.5, "less than the sum")])
def test_the_verdict_follows_the_numbers(runs: list[RunRecord], paper: Paper, factor: float, words: str) -> None:
    def scaled(run: RunRecord) -> RunRecord:
        if run.label != UNIFORM[2]:
            return run
        error = run.scores["latent_error_fp"]
        return replace(run, scores={**run.scores, "latent_error_fp": {**error, "value": factor * error["value"]}})

    frame = coupling_frame(build_table("table5", [scaled(run) for run in runs], paper))
    mine = frame[(frame["metric"] == "latent_error_fp") & (frame["schedule"] == "uniform")]
    assert set(mine["verdict"]) == {words}


def test_the_papers_numbers_stand_below_and_say_whose_they_are(table: Table) -> None:
    text = coupling_markdown(table)
    assert "W8A8; note and translation" in text
    assert "FID loss 0.76 by quantization alone, 4.71 by caching alone, together 5.47; 11.99 by" in text
    assert len(coupling_frame(table)) == 2 * 12


def test_a_table_without_the_four_rows_has_no_such_file(paper: Paper, tmp_path: Path) -> None:
    table = build_table("table5", [record()], paper)
    assert (coupling_markdown(table), preparation_markdown(table)) == ("", "")
    names = {path.name for path in write_figures(table, tmp_path, thumbnails=tmp_path)}
    assert not names & {"table5_coupling.png", "table5_preparation.png"}


def test_a_stage_whose_time_is_not_known_leaves_the_preparation_unknown() -> None:
    said = record(made={"statistics": 30.0, "schedule": 2.0, "samples": 99.0})
    lent, resumed, old = (record(made=made) for made in ({"schedule": 1.0}, {"schedule": None}, {}))
    assert stages_of(said) == {"statistics": 30.0, "schedule": 2.0}
    assert stages_of(resumed) is None
    assert preparation([resumed, old]) is None
    both = preparation([said, lent, resumed])
    assert both is not None
    assert (both.total.mean, both.total.num) == ((32.0 + 1.0) / 2, 2)


def test_preparation_has_a_table_and_a_figure_where_it_differs(runs: list[RunRecord], paper: Paper) -> None:
    def prepared(run: RunRecord) -> RunRecord:
        return replace(run, thumbnails="", made={"schedule": 1.0, "quant_params": 10.0 * run.quantized + run.seed})

    table = build_table("table5", [prepared(run) for run in runs], paper)
    text = preparation_markdown(table)
    assert "| 12.0 ± 1.0 " in text
    assert "about 0.75 h" in text
    assert set(preparation_frame(table)["num_seeds"]) == {3}
    chosen = choose(table.rows)
    figures = (
        coupling_figure(table, couplings(chosen.rows, paper), "coupling"),
        preparation_figure(table, chosen, looks_of(table.rows)),
    )
    titles = [[axes.get_title() for axes in figure.axes] for figure in figures if figure]
    assert titles[0] == ["Ours, 3 seeds (dots)", "Ours, 3 seeds (dots)", "The paper's"]
    assert [title.partition(":")[0] for title in titles[1]] == [
        "Ours (bars", "The paper's", "", "The paper's",
    ]  # fmt: skip


def test_preparation_is_all_that_a_run_makes_before_its_images() -> None:
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "cq/run/stages").glob("*.py")]
    stages = {name for source in sources for name in re.findall(r'^    name = "(\w+)"$', source, re.MULTILINE)}
    after = {"acceleration", "samples", "samples_full_precision", "timing", "diagnosis"}
    assert stages - set(PREPARATION) == after
    assert set(PREPARATION) <= stages
