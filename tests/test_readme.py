"""What the README promises exists: files, commands, choices."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from cq.cli.main import COMMANDS as NAMED
from cq.cli.run import expand_globs
from cq.run.config import CONF
from tests.tiny_runs import composed

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
CHOICES = (ROOT / "conf/README.md").read_text()
PAGES = (
    "README.md",
    "conf/README.md",
    "cq/README.md",
    "cq/zoo/README.md",
    "experiments/published.md",
    "results/README.md",
)
TEXTS = {name: (ROOT / name).read_text() for name in PAGES}
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", "\n".join(TEXTS.values()), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_of_the_repository(name: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[name]) if "://" not in target]
    assert targets
    assert [target for target in targets if not ((ROOT / name).parent / target).exists()] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("cq ")])
def test_every_cq_command_composes(command: str) -> None:
    word = command.split()[1]
    if "=" not in word and word != "-m":
        assert word in NAMED
        return
    arguments = [word for word in expand_globs(shlex.split(command)[1:]) if not word.startswith("-")]
    first_of_each = [word.split(",")[0] for word in arguments]
    composed(first_of_each)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m")])
def test_every_module_that_is_run_exists(command: str) -> None:
    assert importlib.util.find_spec(command.split()[2]) is not None


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_choice_of_every_group_is_named() -> None:
    for group in (
        "model",
        "sampler",
        "cache",
        "predict",
        "schedule",
        "cost",
        "correct",
        "quantize",
        "evaluate",
        "protocol",
        "logger",
        "recipe",
        "scale",
        "debug",
        "hydra/launcher",
    ):
        for file in (CONF / group).glob("*.yaml"):
            assert f"`{file.stem}`" in CHOICES, f"conf/{group}/{file.name} is not in conf/README.md"


def test_the_readme_is_short_enough_to_read() -> None:
    assert len(TEXT.splitlines()) < 200


def test_the_headline_table_says_what_the_generated_table_says() -> None:
    """Every cell of it stands in the row of the same label and budget in results/tables/table5.md."""
    generated = [line for line in (ROOT / "results/tables/table5.md").read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in generated]
    text = TEXTS["results/README.md"]
    headline = text[text.index("| configuration (250 steps") :].split("\n\n")[0].splitlines()[2:]
    assert len(headline) == 10
    for line in headline:
        label, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        whole = [row for row in rows if row[0] == label and row[2] in ("-", "20") and row[3] in ("32/32", "W8A8")]
        assert len(whole) == 1, label
        assert [cell for cell in cells if cell not in whole[0]] == []
