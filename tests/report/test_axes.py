"""A grid is a table: every cell has a row, under a name made of what differs between the cells."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from cq.report.axes import axes_of, cell_of, name_of
from cq.report.build import build_tables
from cq.report.paper import Paper, read_paper
from cq.report.tables import Table
from cq.run.config import PAPER
from cq.run.labels import UNNAMED
from cq.run.record import RunRecord
from tests.report.synthetic import record, score


@pytest.fixture(name="paper")
def _paper() -> Paper:
    return read_paper(PAPER)


def cell(seed: int = 0, window: int = 20, interval: int = 5, label: str = UNNAMED, **choices: str) -> RunRecord:
    """As `cq` writes it: what was asked stands in the overrides, the choices and the configuration."""
    overrides = (*(f"{key}={value}" for key, value in choices.items()), f"calibrate.window={window}", f"seed={seed}")
    config: dict[str, Any] = {key: {"_target_": f"cq.{key}.{value}"} for key, value in choices.items()}
    config |= {"seed": seed, "calibrate": {"window": window}}
    config["schedule"] = {**config.get("schedule", {}), "interval": interval}
    return record(
        label, experiment=f"runs/{label}", table="runs", seed=seed, overrides=overrides,
        choices=choices, config=config,
        config_digest=f"{choices} {window} {interval}", scores={"frechet_own": score(float(interval))},
        budget={"num_steps": 100, "cache_interval": interval, "weight_bits": 8, "act_bits": 8},
    )  # fmt: skip


def test_every_cell_of_a_grid_has_a_row_and_a_name(paper: Paper) -> None:
    grid = product(("uniform", "dps"), ("none", "ptq"), ("none", "channel_affine"), (2, 5))
    cells = [
        cell(schedule=schedule, quantize=bits, correct_cache=correction, interval=interval)
        for schedule, bits, correction, interval in grid
    ]
    (table,) = build_tables("runs", cells, paper)
    titles = [row.title for row in table.rows]
    assert len(titles) == len(set(titles)) == 16
    assert "dps, ptq, cache channel_affine, N=5" in titles
    assert "uniform, N=2" in titles
    assert not table.superseded
    assert list(table.frame()["configuration"]) == [row.label for row in table.rows]
    assert set(table.numbers()["schedule"]) == {"uniform", "dps"}
    assert set(table.numbers()["correct.cache"]) == {"none", "channel_affine"}


def test_seeds_of_a_cell_are_one_row_whatever_else_the_command_said(paper: Paper) -> None:
    first, second = cell(seed=0, schedule="dps"), cell(seed=1, schedule="dps")
    second = replace(
        second, overrides=(*second.overrides, "cost=l1", "paths=elsewhere", "fail_fast=true"),  # l1 is the default
        config={**second.config, "fail_fast": True, "objective": ["psnr_fp_db"]},
    )  # fmt: skip
    (table,) = build_tables("runs", [first, second, cell(schedule="uniform")], paper)
    assert [(row.label, row.seeds) for row in table.rows] == [("dps", "2 seeds"), ("uniform", "1 seed")]


def test_the_same_words_asked_again_replace_what_was_answered(paper: Paper) -> None:
    first, other = cell(schedule="dps"), cell(schedule="uniform")
    again = replace(first, config_digest="edited", config={**first.config, "calibrate": {"window": 21}})
    (table,) = build_tables("runs", [first, other, again], paper)
    assert {row.records[0].config_digest for row in table.rows} == {"edited", other.config_digest}
    assert table.superseded == (first.key,)


def test_rows_of_a_table_that_were_swept_say_what_differs(paper: Paper) -> None:
    rows = [cell(label=label, window=window, schedule="dps") for label in ("naive", "ours") for window in (10, 20)]
    (table,) = build_tables("runs", rows, paper)
    assert [row.label for row in table.rows] == [
        f"{label}, calibrate.window {window}" for label in ("naive", "ours") for window in (10, 20)
    ]


def test_an_entry_that_a_choice_brings_along_is_no_axis() -> None:
    cells = [cell(schedule="dps", window=10), cell(schedule="uniform", window=20)]
    assert [axis.title for axis in axes_of(cells)] == ["schedule"]
    alone = [cell(schedule="dps", window=window) for window in (10, 20)]
    assert [axis.title for axis in axes_of(alone)] == ["calibrate.window"]
    assert [name_of(each, axes_of(alone)) for each in alone] == ["calibrate.window 10", "calibrate.window 20"]


@pytest.mark.parametrize("words", [("seed=1",), ("paths.store=x", "hydra.verbose=true"), ("experiment=table5/quant",)])
def test_words_that_set_no_cell_apart(words: tuple[str, ...]) -> None:
    assert cell_of(record(overrides=("schedule=dps", *words))) == "schedule=dps"


def test_a_run_without_words_is_told_by_its_configuration(paper: Paper) -> None:
    plain = [replace(cell(schedule="dps", window=window), overrides=()) for window in (10, 20)]
    (table,) = build_tables("runs", plain, paper)
    assert [row.label for row in table.rows] == ["calibrate.window 10", "calibrate.window 20"]


def test_single_runs_of_other_protocols_are_a_table_each(paper: Paper) -> None:
    def sized(images: int, schedule: str) -> RunRecord:
        scores: Any = {"frechet_own": score(1.0, num_images=images)}
        return replace(cell(sample=f"images{images}", schedule=schedule), scores=scores)

    cells = [sized(images, schedule) for images in (100, 300) for schedule in ("dps", "uniform")]
    tables: list[Table] = build_tables("runs", cells, paper)
    assert [table.name for table in tables] == ["runs_images100", "runs_images300"]
    assert [[row.label for row in table.rows] for table in tables] == [["dps", "uniform"]] * 2
