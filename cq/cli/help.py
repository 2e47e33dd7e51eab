"""What `cq --help` and `cq --choices` print: read from conf/, so that what is new there is told at once.

A group is described behind its default in conf/config.yaml, a choice in the first comment of its yaml, a row of a table
by its label.
"""

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cq.cli.commands import ended
from cq.report.terminal import width_here
from cq.run.building import near
from cq.run.config import CONF
from cq.run.own import allowing, conf_folders
from cq.run.tables import read_table, table_names

USAGE = """\
cq: joint caching and quantization of diffusion models

usage: cq GROUP=CHOICE ... KEY=VALUE ...    one run, of choices and numbers; what is left out has a default
       cq -m GROUP=A,B KEY=1,2 ...          a grid: every combination
       cq COMMAND ...                       as listed below; each says its own --help
"""
EXAMPLES: Mapping[str, str] = {
    "cq model=ldm_mini schedule=dps quantize=ptq correct@correct.cache=channel_affine": "one run",
    "cq -m schedule=uniform,dps quantize=none,ptq scale=demo": "a grid, in minutes",
    "cq table table5 scale=demo": "a table of the paper, small",
    "cq plan experiment=table5/cache_dps": "what it will take",
    "cq report": "compare what was run",
    "cq doctor": "is all in place?",
}
MORE = """\
numbers   budget.num_steps, budget.cache_interval (N), budget.weight_bits, budget.act_bits, budget.max_memory; seed;
          every other key of conf/GROUP/CHOICE.yaml as GROUP.KEY=VALUE; force=true runs again what is recorded

more      cq --choices [GROUP]       the choices of a group, or of all, a line each
          cq ... --cfg job           the whole configuration of these words; runs nothing
          cq --hydra-help            what Hydra itself can do: launchers, completion, overrides
          README.md, notebooks/      the method, results, how to add a part of one's own
"""
BESIDE: Mapping[str, str] = {  # groups that have no default in conf/config.yaml
    "metric": "a score more: +metric@metrics.NAME=CHOICE",
    "hydra/launcher": "where the runs of a grid go; by default here, one by one",
    "hydra/sweeper": "which runs of a grid are made; by default all",
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """name: as on the command line. choices: name to what it is, "" where nobody says. default: its name, or "null"."""

    name: str
    about: str
    default: str
    choices: Mapping[str, str]


def groups() -> list[Group]:
    """Every group that has choices, in the order of conf/config.yaml, then those beside it."""
    found = []
    for line in (CONF / "config.yaml").read_text().splitlines():
        if entry := re.fullmatch(r"  - ([\w@./]+): (\w+)\s*(?:# (.*))?", line):
            found.append((entry[1], entry[3] or "", entry[2]))
    named = [*found, *((name, about, "") for name, about in BESIDE.items())]
    known = [Group(name=name, about=about, default=default, choices=choices(name)) for name, about, default in named]
    return [group for group in known if group.choices]


def choices(group: str) -> dict[str, str]:
    """Name to what it is, in order of name, of a group, those of other packages included; of `experiment` the rows."""
    if group == "experiment":
        rows = {f"{table}/{row}": node for table in table_names() for row, node in read_table(table).rows.items()}
        return {name: str(node["row"]["label"]) for name, node in rows.items()}
    folders = [folder / group.partition("@")[0] for folder in conf_folders()]
    return {path.stem: first_comment(path) for folder in folders for path in sorted(folder.glob("*.yaml"))}


def first_comment(path: Path) -> str:
    """The comment that a yaml begins with, on one line; "" where it begins with none."""
    said = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            said.append(line.lstrip("# "))
    return " ".join(said)


def page() -> str:
    """All that one reads first, on one page."""
    from cq.cli.main import COMMANDS

    def table(rows: Mapping[str, str]) -> Iterator[str]:
        width = max(map(len, rows))
        yield from (f"  {name:{width}}  {text}" for name, text in rows.items())

    known = groups()
    longest = max(len(group.name) for group in known)
    lines = [USAGE, "examples", *table(EXAMPLES), "", "commands", *table(COMMANDS), ""]
    lines += [f"{'groups':{longest + 2}}  choices  default"]
    lines += [
        f"  {group.name:{longest}}  {len(group.choices):7}  {group.default.replace('null', ''):17}  {group.about}"
        for group in known
    ]
    return "\n".join([*lines, "", MORE])


def listing(asked: Group) -> str:
    """The choices of a group, a line each where the terminal is wide enough; rows under their tables."""
    width = width_here()
    default = f" (default {asked.default})" if asked.default not in ("", "null") else ""
    lines = [f"{asked.name}: {asked.about}{default}"]
    table, margin = "", "  "
    longest = max(map(len, asked.choices))
    for name, about in asked.choices.items():
        if asked.name == "experiment" and name.partition("/")[0] != table:
            table, margin = name.partition("/")[0], "    "
            lines.append(f"  {table}: {read_table(table).title}")
        hanging = " " * (len(margin) + longest + 2)
        text = f"{name:{longest}}  {about}"
        lines += textwrap.wrap(text, max(width, 60), initial_indent=margin, subsequent_indent=hanging)
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str]) -> int:
    """`--help`, or `--choices [GROUP]`. Exit status: see `cq.cli.commands.ended`."""
    return ended("cq", lambda: _tell(allowing(arguments)))


def _tell(arguments: Sequence[str]) -> None:
    if arguments[:1] != ["--choices"]:
        sys.stdout.write(page())
        return
    known, name = groups(), "".join(arguments[1:2])
    asked = [group for group in known if name in ("", group.name, group.name.partition("@")[0])]
    if not asked:
        names = [group.name for group in known]
        raise ValueError(f"--choices {name}: there is no such group.{near(name, names)} Groups are {', '.join(names)}.")
    sys.stdout.write("\n".join(map(listing, asked)))
