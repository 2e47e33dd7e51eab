"""The page of `cq --help` and the choices of `cq --choices`: read from conf/, whole, and there at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from cq.cli.help import Group, choices, first_comment, groups, page
from cq.cli.main import COMMANDS, main
from cq.run.config import CONF
from cq.run.tables import experiments


def test_the_page_has_every_group_and_every_command_and_fits_a_terminal() -> None:
    text = page()
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) <= 66
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"table", "hydra", "ablation"}
    assert {name.partition("@")[0] for name in rows} >= {*folders, "experiment", *COMMANDS}
    assert rows["schedule"][1:3] == [str(len(list((CONF / "schedule").glob("*.yaml")))), "none"]
    assert rows["model"][2] == "ldm_mini"


@pytest.mark.parametrize("group", groups(), ids=lambda group: str(group.name))
def test_every_group_and_every_choice_of_ours_says_what_it_is(group: Group) -> None:
    assert group.about
    assert [name for name, about in group.choices.items() if not about] == []


def test_rows_are_listed_under_their_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--choices", "experiment"]) == 0
    told = capsys.readouterr().out
    assert "\n  table5: Ablation of the parts\n" in told
    assert sorted(line.split()[0] for line in told.splitlines() if line.startswith("    ")) == experiments()


def test_the_choices_of_all_groups_are_those_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--choices"]) == 0
    told = capsys.readouterr().out
    assert all(f"{group.name}: {group.about}" in told for group in groups())
    assert main(["--choices", "correct"]) == 0
    assert capsys.readouterr().out.count("offset_only") == 3


def test_an_unknown_group_is_refused_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--choices", "shedule"]) == 2
    assert "Did you mean 'schedule'? Groups are sampler, model" in capsys.readouterr().err


def test_a_choice_of_another_folder_is_listed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CQ_ALLOW", "")
    (tmp_path / "conf/schedule").mkdir(parents=True)
    (tmp_path / "conf/schedule/mine.yaml").write_text("# @package x\n# Mine,\n# twice.\n_target_: mine.Mine\n")
    assert main(["--choices", "schedule", f"cq.allow={tmp_path}"]) == 0
    assert "mine              Mine, twice.\n" in capsys.readouterr().out
    assert choices("schedule")["mine"] == first_comment(tmp_path / "conf/schedule/mine.yaml")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"], ["seed=1", "--help"]])
def test_help_is_asked_for_in_many_ways(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out == page()


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from cq.cli.main import main; main(['--help']); print(sorted({'torch', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("\n[]\n")
