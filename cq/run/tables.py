"""The tables: one file of conf/table each, with a title, rows, and the grid that results/ holds.

    title: Ablation of the parts
    grid: {sample: images700, budget.cache_interval: [5, 10, 20], seed: [0, 1, 2]}   # or a list of such grids
    all: {evaluate: paired}                                                          # what every row sets
    rows:
      quant: {label: quantized only, paper: quant_only, quantize: ptq}
      quant_dps: {like: quant, label: quantized + DPS, schedule: dps}   # sets what `quant` sets, and this

Row `quant` of table5.yaml is the choice `experiment=table5/quant`. A row says what the command line would: choices of
groups, and numbers of `budget` and `baseline`. It sets no number inside a group, which would follow when the group is
swapped, and break it. Rows are numbered as they stand; `order` gives one its number, from which the next ones count.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cq.run.building import near
from cq.run.config import CONF, Baseline, Budget, check_row
from cq.run.own import conf_folders

FOLDER = CONF / "table"
ROW: Mapping[str, Any] = {"label": str, "paper": str, "order": int, "like": str}


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """rows: what Hydra merges for each, by name and in order. grids: values of overrides by key, as "5,10,20"."""

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    grids: Sequence[Mapping[str, str]]


def table_names() -> list[str]:
    """The tables that have a file."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    folders = [FOLDER, *(folder / "table" for folder in conf_folders()[1:])]
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def read_table(name: str) -> TableFile:
    """The table of that name. Raises ValueError where there is none, and for what its file may not say."""
    path = _files().get(name)
    if path is None:
        path, known = FOLDER / f"{name}.yaml", table_names()
        raise ValueError(f"table={name!r}: there is no {path}.{near(name, known)} Known tables: {', '.join(known)}.")
    try:
        return _parsed(name, path.read_text())
    except (yaml.YAMLError, OSError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}). Write YAML, each key once.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def title_of(name: str) -> str:
    """In words, of the table whose name it is or begins with, as table1 in table1_ddpm_mini; "" if that has no file."""
    found = [table for table in table_names() if f"{name}_".startswith(f"{table}_")]
    return read_table(max(found, key=len)).title if found else ""


def experiments() -> list[str]:
    """All choices of the group `experiment`, as table5/quant."""
    return sorted(f"{table}/{row}" for table in table_names() for row in read_table(table).rows)


@cache
def _parsed(name: str, text: str) -> TableFile:
    """Once a process for the same words: all that is composed asks."""
    return _table(name, OmegaConf.to_container(OmegaConf.create(text)))


def _table(name: str, document: Any) -> TableFile:
    _check(document, "", {"title": str, "grid": dict | list, "all": dict, "rows": dict}, needed=("title", "rows"))
    common, known = document.get("all", {}), settable()
    _check(common, "all.", known)
    settings: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}
    order = -1
    for row, given in document["rows"].items():
        key = f"rows.{row}."
        _check(given, key, {**ROW, **known}, needed=("label",))
        like, label = given.get("like"), given["label"]
        if like is not None and like not in settings:
            raise ValueError(f"{key}like={like!r}: must be a row above this one.{near(like, settings)} Name one.")
        if label in labels:
            raise ValueError(f"{key}label={label!r}: is the label of {labels[label]}, too. Give each row its own.")
        if given.get("order", order + 1) <= order:
            raise ValueError(f"{key}order={given['order']}: must be more than {order}, of the row above. Raise it.")
        order = given.get("order", order + 1)
        labels[label] = str(row)
        own = {key: value for key, value in given.items() if key not in ROW}
        settings[row] = {**(settings[like] if like else common), **own}
        place = {"table": name, "name": row, "order": order, "label": label, "paper": given.get("paper", "")}
        check_row(OmegaConf.create({"row": place}))
        rows[row] = {"row": place, **_node(settings[row])}
    if not rows:
        raise ValueError("rows={}: a table has at least one row. Add one: NAME: {label: WORDS}.")
    grids = document.get("grid", {})
    grids = grids if isinstance(grids, list) else [grids]
    return TableFile(title=document["title"], rows=rows, grids=[_grid(grid) for grid in grids])


def _grid(grid: Any) -> dict[str, str]:
    """[5, 10] becomes "5,10", as on the command line."""
    _check(grid, "grid.", dict.fromkeys(grid, str | int | float | list) if isinstance(grid, dict) else {})
    lists = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    return {key: ",".join(each if isinstance(each, str) else json.dumps(each) for each in lists[key]) for key in lists}


SECTIONS: Mapping[str, type] = {"budget": Budget, "baseline": Baseline}


def settable() -> dict[str, type]:
    """What a row may set, and to values of which type."""
    numbers: dict[str, type] = {f"{key}.{each.name}": object for key, kind in SECTIONS.items() for each in fields(kind)}
    return dict.fromkeys(_groups(), str) | numbers


def _node(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`schedule: dps` becomes an entry of Hydra's defaults list, `budget.num_steps: 50` a number to merge."""
    node: dict[str, Any] = {"defaults": [], **{section: {} for section in SECTIONS}}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if section in SECTIONS:
            node[section][name] = value
        else:
            node["defaults"].append({f"override /{key}": value})
    return node


@cache
def _groups() -> list[str]:
    """What conf/config.yaml lets one choose, as correct@correct.cache."""
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    return [str(key) for entry in defaults if isinstance(entry, DictConfig) for key in entry if key != "experiment"]


def _check(value: Any, above: str, known: Mapping[str, Any], needed: Sequence[str] = ()) -> None:
    """Raise ValueError unless it maps known keys, those that it needs among them, to values of their types."""
    if not isinstance(value, dict):
        raise ValueError(f"{above.rstrip('.') or 'the file'}={value!r}: must be a mapping. Write KEY: VALUE.")
    for key, entry in value.items():
        if key not in known:
            raise ValueError(
                f"{above}{key}={entry!r}: there is no key {key!r}.{near(str(key), known)} Known keys here: "
                f"{', '.join(known)}."
            )
        if not isinstance(entry, known[key]):
            name = getattr(known[key], "__name__", known[key])
            raise ValueError(f"{above}{key}={entry!r}: must be {name}. Give a value of that type.")
    for key in needed:
        if key not in value:
            raise ValueError(f"{above}{key}: missing. Give one.")
