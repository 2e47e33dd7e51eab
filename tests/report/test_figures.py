"""Which rows of a table with several budgets the figures draw, and how configurations look."""

import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from cq.report.budgets import choose
from cq.report.build import build_table
from cq.report.differences import MOST, difference_figure
from cq.report.figures import image_figure
from cq.report.gallery import strips_shown, write_figures
from cq.report.looks import looks_of, png_bytes, style
from cq.report.metrics import judging
from cq.report.paper import Paper, read_paper
from cq.report.sweeps import cost_an_image, front
from cq.report.tables import Row, Table
from cq.run.config import PAPER
from tests.report.sweep import CONFIGURATIONS, sweep
from tests.report.synthetic import ablation, record


@pytest.fixture(name="paper", scope="module")
def _paper() -> Paper:
    return read_paper(PAPER)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(name="table", scope="module")
def _table(paper: Paper, folder: Path) -> Table:
    return build_table("table5", sweep(folder), paper)


def test_one_budget_is_the_longest_interval_and_the_most_bits_with_rows_that_read_neither(table: Table) -> None:
    chosen = choose(table.rows)
    assert len(table.rows) == 45
    assert chosen.name == "N = 20, W8A8"
    assert sorted(row.title for row in chosen.rows) == sorted(label for label, *_ in CONFIGURATIONS)
    assert {(row.budget["cache_interval"], row.bits) for row in chosen.rows} == {
        (None, "32/32"), (20, "32/32"), (None, "W8A8"), (20, "W8A8"),
    }  # fmt: skip


def test_a_table_of_one_budget_keeps_all_rows_and_names_none(paper: Paper, tmp_path: Path) -> None:
    rows = build_table("table5", ablation(tmp_path), paper).rows
    chosen = choose(rows)
    assert (chosen.rows, chosen.name, chosen.titled("title")) == (rows, "", "title")


def test_bits_and_steps_that_set_rows_apart_all_stay_where_the_interval_was_swept(paper: Paper) -> None:
    budgets = [(8, 50, (None,)), (4, 50, (None,)), (8, 10, (None,)), (8, 50, (5, 10))]
    runs = [
        record(
            f"row {place}", row=place, experiment=f"mine/row_{place}",
            budget={"num_steps": steps, "cache_interval": interval, "weight_bits": bits, "act_bits": 8},
            config_digest=f"{place}, {interval}",
        )
        for place, (bits, steps, intervals) in enumerate(budgets) for interval in intervals
    ]  # fmt: skip
    chosen = choose(build_table("table5", runs, paper).rows)
    assert chosen.name == "N = 10"
    assert sorted(row.title for row in chosen.rows) == [f"row {place}" for place in range(4)]


def test_each_model_is_drawn_at_its_own_budget(paper: Paper) -> None:
    def run(model: str, interval: int, place: int) -> list[Row]:
        budget = {**record().budget, "cache_interval": interval}
        one = record(model, row=place, budget=budget, model={"name": model, "weights_digest": "w"})
        return list(build_table("table5", [one], paper).rows)

    chosen = choose([*run("a", 5, 0), *run("a", 20, 1), *run("b", 5, 2), *run("b", 10, 3)])
    assert chosen.name == "a: N = 20; b: N = 10"
    assert [row.budget["cache_interval"] for row in chosen.rows] == [20, 10]


def test_no_two_configurations_look_alike_and_colour_means_the_parts(table: Table) -> None:
    looks = looks_of(table.rows)
    assert len(looks) == len(CONFIGURATIONS)
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == len(CONFIGURATIONS)
    corrected = {label: look for (label, _), look in looks.items() if label.endswith("DEC-quant")}
    assert len({look.colour for look in corrected.values()}) == 1
    assert len({look.marker for look in corrected.values()}) == 2


def test_configurations_that_choices_do_not_tell_apart_still_look_different(paper: Paper) -> None:
    rows = build_table("table5", [record(f"row {place}", row=place) for place in range(16)], paper).rows
    looks = looks_of(rows)
    assert len({(look.colour, str(look.dash), look.marker) for look in looks.values()}) == 16


def test_a_sweep_gets_the_figure_by_interval(table: Table, folder: Path, tmp_path: Path) -> None:
    names = {path.name for path in write_figures(table, tmp_path, thumbnails=folder, svg=True)}
    assert {"table5_intervals.png", "table5_intervals.svg", "table5_tradeoff.png", "table5_error.svg"} <= names
    svg = (tmp_path / "table5_overview.svg").read_text()
    assert "<!-- table5: Ablation of the parts (N = 20, W8A8) -->" in svg
    assert "N=5" not in svg


def test_the_page_shows_what_is_written_and_what_it_shows_no_longer_goes(
    table: Table, paper: Paper, folder: Path, tmp_path: Path
) -> None:
    files = write_figures(table, tmp_path, thumbnails=folder)
    names = [f"table5_{figure}.png" for figure in ("overview", "intervals", "tradeoff", "coupling")]
    assert [path.name for path in files] == ["table5.md", *names]
    shown = [line.partition("](")[2].rstrip(")") for line in files[0].read_text().splitlines() if line.startswith("!")]
    assert shown == names
    (tmp_path / "table5_mine.png").touch()
    write_figures(build_table("table5", [record()], paper), tmp_path, thumbnails=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table5.md", "table5_mine.png", "table5_tradeoff.png", "table5_schedules.png",
    }  # fmt: skip
    failed = record(status="failed", note="synthetic", scores={}, counted={}, schedule={})
    write_figures(build_table("table5", [failed], paper), tmp_path, thumbnails=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table5_mine.png"]


def test_a_strip_that_was_not_kept_is_said_in_its_place(table: Table, folder: Path, tmp_path: Path) -> None:
    kept = strips_shown(table, folder)
    (tmp_path / "thumbnails").mkdir()
    shutil.copy(kept[0], tmp_path / "thumbnails")
    assert strips_shown(table, tmp_path) == [tmp_path / "thumbnails" / kept[0].name]
    figure = image_figure(choose(table.rows), thumbnails=tmp_path)
    assert figure is not None
    said = [
        axes.get_ylabel() for axes in figure.axes if [text.get_text() for text in axes.texts] == ["images not kept"]
    ]
    assert len(said) == len(figure.axes) - 1 == len(kept) - 1
    assert image_figure(choose(table.rows), thumbnails=tmp_path / "nothing") is None


def test_a_difference_is_to_the_full_precision_image_of_the_same_seed(table: Table, folder: Path) -> None:
    chosen = choose(table.rows)
    assert difference_figure(chosen, thumbnails=folder) is None, "more rows than can be looked at"
    few = replace(chosen, rows=chosen.rows[:MOST])
    figure = difference_figure(few, thumbnails=folder)
    assert figure is not None
    whole, *others = (np.asarray(axes.images[0].get_array()) for axes in figure.axes)
    assert len(others) == MOST - 1
    for other in others:
        ours, difference = np.split(other, 2)
        np.testing.assert_allclose(difference, (4 * abs(ours - whole)).clip(0, 1), atol=1e-6)
    assert any(np.split(other, 2)[1].max() > 0 for other in others)


def test_the_front_of_a_cost_is_what_nothing_cheaper_is_better_than(table: Table) -> None:
    column = next(column for column in table.metrics if column.key == "psnr_fp_db")
    rows = [row for row in table.rows if row.judged_by("psnr_fp_db") and "bops_mean" in row.costs]
    costs, means = front(rows, column)
    assert costs == sorted(costs)
    assert means == sorted(means)
    for row in rows:
        cost, mean = cost_an_image(row), row.scores["psnr_fp_db"].mean
        assert any(found <= cost and best >= mean for found, best in zip(costs, means, strict=True))


def test_the_first_metric_and_psnr_judge(table: Table) -> None:
    assert [column.key for column in judging(table.metrics)] == ["frechet_own", "psnr_fp_db"]


def test_a_marker_keeps_its_colour_beside_images_of_many() -> None:
    rng = np.random.default_rng(0)
    with style():
        figure, (left, right) = plt.subplots(1, 2)
        left.imshow(rng.random((60, 60, 3)) * np.linspace(0, 1, 60)[:, None, None])
        right.plot([0], [0], "s", color="#0072B2", markersize=8)
        right.plot([1], [1], "s", color="#009E73", markersize=8)
        with Image.open(BytesIO(png_bytes(figure))) as drawn:
            found = np.asarray(drawn.convert("RGB")).reshape(-1, 3).astype(int)
    for wanted in ((0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)):
        assert (found == wanted).all(1).any()
    assert (found[0] == 255).all()  # the page
