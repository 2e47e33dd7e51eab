"""A run says what it is before others are there to compare it with."""

import pytest

from cq.run.labels import UNNAMED, run_group, run_name, run_settings, run_tags, words_of
from tests.report.synthetic import record


@pytest.mark.parametrize(
    ("label", "words", "name"),
    [
        (UNNAMED, ("model=mini", "schedule=dps", "budget.cache_interval=5", "seed=1"), "mini, dps, N=5, seed 0"),
        (UNNAMED, ("correct@correct.cache=affine", "quantize=none"), "cache affine, quantize=none, seed 0"),
        (UNNAMED, (), "single run, seed 0"),
        ("naive", ("experiment=table5/naive", "paths=results", "calibrate.max_interval=9"),
         "naive, calibrate.max_interval=9, seed 0"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_its_row_and_what_was_set(label: str, words: tuple[str, ...], name: str) -> None:
    assert run_name(vars(record(label, overrides=words))) == name


def test_sixteen_cells_of_a_grid_have_sixteen_names() -> None:
    names = {
        run_name(vars(record(UNNAMED, overrides=(f"schedule={s}", f"quantize={q}", f"budget.cache_interval={n}", c))))
        for s in ("dps", "uniform") for q in ("none", "ptq") for n in (2, 5)
        for c in ("correct@correct.cache=none", "correct@correct.cache=channel_affine")
    }  # fmt: skip
    assert len(names) == 16


def test_groups_tags_and_settings_are_choices_by_name() -> None:
    row, single = vars(record()), vars(record(UNNAMED, table="runs", choices={"model": "dit_mini", "quantize": "none"}))
    assert (run_group(row), run_group(single)) == ("table5", "runs dit_mini")
    assert {"schedule=uniform", "quantize=ptq", "N=20", "W8A8"} <= set(run_tags(row))
    assert not any(tag.startswith("quantize") for tag in run_tags(single))
    assert run_settings(row)["weight_bits"] == 8
    assert run_settings(single)["quantize"] == "none"


def test_words_that_set_no_run_apart_are_left_out() -> None:
    asked = (
        "schedule=dps",
        "seed=1",
        "paths.store=x",
        "hydra.verbose=true",
        "logger=none",
        "+row.name=x",
        "force=true",
    )
    assert words_of(asked) == ["schedule=dps"]
