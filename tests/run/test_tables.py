"""A table is one file: what its rows set is what Hydra composes, and a wrong file is refused by key, value and rule."""

from pathlib import Path

import pytest

from cq.run import tables
from cq.run.tables import experiments, read_table, table_names, title_of
from tests.tiny_runs import composed

MINE = """\
title: Mine
grid: {sample: images100, budget.cache_interval: [5, 10], force: true}
all: {model: dit_mini, budget.num_steps: 50}
rows:
  a: {label: first, paper: key}
  b: {order: 7, like: a, label: second, schedule: dps, correct@correct.cache: channel_affine, budget.cache_interval: 2}
  c: {like: b, label: third, schedule: uniform}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """conf/table with one file in it."""
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path / "mine.yaml"


@pytest.mark.usefixtures("mine")
def test_a_row_sets_what_all_rows_set_what_the_row_it_is_like_sets_and_its_own() -> None:
    table = read_table("mine")
    assert (table.title, table.grids) == (
        "Mine", [{"sample": "images100", "budget.cache_interval": "5,10", "force": "true"}],
    )  # fmt: skip
    assert [row["row"] for row in table.rows.values()] == [
        {"table": "mine", "name": "a", "order": 0, "label": "first", "paper": "key"},
        {"table": "mine", "name": "b", "order": 7, "label": "second", "paper": ""},
        {"table": "mine", "name": "c", "order": 8, "label": "third", "paper": ""},
    ]
    assert table.rows["c"]["defaults"] == [
        {"override /model": "dit_mini"}, {"override /schedule": "uniform"},
        {"override /correct@correct.cache": "channel_affine"},
    ]  # fmt: skip
    assert table.rows["c"]["budget"] == {"num_steps": 50, "cache_interval": 2}
    assert table.rows["a"]["budget"] == {"num_steps": 50}


def test_a_row_is_a_choice_of_the_group_experiment() -> None:
    config, choices = composed(["experiment=table3/fewer_steps_dpmpp_25"])
    assert (choices["experiment"], choices["model"], choices["sampler"]) == (
        "table3/fewer_steps_dpmpp_25", "dit_mini", "dpmpp",
    )  # fmt: skip
    assert (config.row.label, config.row.order) == ("fewer steps: 25, DPM-Solver++", 23)
    assert (config.budget.num_steps, config.sample.num_steps) == (50, 25)
    assert config.baseline.sampler._target_ == "cq.sampler.ddim.DDIM"
    config, choices = composed(["experiment=table5/quant_dps_dec", "debug=smoke", "cost=squared"])
    assert (choices["schedule"], choices["sample"], choices["cost"]) == ("dps", "smoke", "squared")


@pytest.mark.usefixtures("mine")
def test_a_title_is_found_by_the_name_of_the_table_alone_or_with_a_model(mine: Path) -> None:
    mine.with_name("mine_two.yaml").write_text(MINE.replace("Mine", "Mine, too"))
    assert table_names() == ["mine", "mine_two"]
    assert [title_of(name) for name in ("mine", "mine_ldm_mini", "mine_two_dit_mini", "minefield", "other")] == [
        "Mine", "Mine", "Mine, too", "", "",
    ]  # fmt: skip
    assert experiments()[:3] == ["mine/a", "mine/b", "mine/c"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("schedule: dps", "shedule: dps", ["rows.b.shedule='dps'", "Did you mean 'schedule'", "budget.num_steps"]),
        ("schedule: dps", "schedule.interval: 3", ["rows.b.schedule.interval=3", "there is no key", "Known keys"]),
        ("schedule: dps", "schedule: 3", ["rows.b.schedule=3", "must be str"]),
        ("budget.num_steps", "budget.num_step", ["all.budget.num_step=50", "Did you mean 'budget.num_steps'"]),
        ("label: third, ", "", ["rows.c.label: missing", "Give one"]),
        ("label: third", "label: second", ["rows.c.label='second'", "is the label of b, too", "its own"]),
        ("like: b", "like: d", ["rows.c.like='d'", "must be a row above this one"]),
        ("like: b", "order: 7", ["rows.c.order=7", "must be more than 7", "Raise it"]),
        ("  c:", "  c/d:", ["row.name='c/d'", "must be one plain name"]),
        ("  c:", "  b:", ["cannot be read", "duplicate key b", "each key once"]),
        ("[5, 10]", "[5, 10", ["cannot be read", "Write YAML"]),
        ("[5, 10]", "{a: 5}", ["grid.budget.cache_interval={'a': 5}", "must be"]),
        ("title: Mine", "titel: Mine", ["titel='Mine'", "Did you mean 'title'"]),
        (MINE, "title: Mine\nrows: {}", ["rows={}", "at least one row", "Add one"]),
        (MINE, "- a", ["the file=['a']", "must be a mapping"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_key_value_rule_and_remedy(old: str, new: str, told: list[str], mine: Path) -> None:
    assert old in MINE
    mine.write_text(MINE.replace(old, new, 1))
    with pytest.raises(ValueError, match=str(mine)) as refused:
        read_table("mine")
    for part in told:
        assert part in str(refused.value)
