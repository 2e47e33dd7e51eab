"""The command `cq`: its first word chooses a command, and everything else is a run of Hydra's."""

from importlib import import_module
from pathlib import Path

import pytest

from cq.cli import main as front
from cq.cli.main import COMMANDS, main

PYPROJECT = Path(front.__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_its_usage_and_ends_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([name, "--help"])
    except SystemExit as end:  # of argparse
        status = int(end.code or 0)
    told = capsys.readouterr()
    assert (status, told.err) == (0, "")
    assert told.out.startswith("cq: joint caching" if name == "run" else "usage: ")


def test_every_command_is_a_program_too() -> None:
    section = PYPROJECT.read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0]
    scripts = {f"cq-{name}": f"cq.cli.{name}:main" for name in COMMANDS if name != "run"}
    assert set(section.splitlines()) == {
        f'{program} = "{target}"' for program, target in {"cq": "cq.cli.main:main", **scripts}.items()
    }
    assert all(callable(import_module(f"cq.cli.{name}").main) for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "meant"), [("tabel", "Did you mean 'table'?"), ("reprot", "Did you mean 'report'?"), ("xyz", "")]
)
def test_an_unknown_word_is_refused_with_the_near_command(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "table5"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"cq: {word}: is no command, and no override")
    assert message.count("\n") == 1
    assert meant in message
    assert "Commands are run, table, plan" in message


@pytest.mark.parametrize("arguments", [["seed=0"], ["~schedule"], ["-m", "seed=0,1"], ["+x=table"]])
def test_all_else_is_a_run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.cli.run.main", lambda given: 3 if given == arguments else 0)
    assert main(arguments) == 3


def test_a_command_gets_what_follows_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.cli.table.main", lambda given: 3 if given == ["table5", "seed=1"] else 0)
    assert main(["table", "table5", "seed=1"]) == 3
