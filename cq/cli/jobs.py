"""The jobs of a table: its rows times a grid of overrides, each of which applies to the rows that have its key."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from cq.run.building import near
from cq.run.compose import composed, composing
from cq.run.ledger import config_digest, experiment_of
from cq.run.tables import read_table

log = logging.getLogger("cq.cli.table")


@dataclass(frozen=True)
class Job:
    """One composed configuration, the names of its choices, and what was set beside its experiment."""

    config: DictConfig
    choices: dict[str, str]
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The arguments with which `cq` asks the same question."""
        return [f"experiment={experiment_of(self.config)}", *self.overrides]


def jobs_of(table: str, overrides: Sequence[str], *, grid: bool = False) -> list[Job]:
    """Every row of the table times the grid of the overrides; equal questions once. grid: that of its file, too.

    An override of what tells the file's grids apart, as model=dit_mini, takes those of that value. Raises ValueError
    for a key that no row has.
    """
    found = read_table(table)
    given = {override.partition("=")[0] for override in overrides}
    jobs: dict[tuple[str, str], Job] = {}
    for own, theirs in _meant(found.grids, overrides) if grid else [({}, list(overrides))]:
        asked = [f"{key}={values}" for key, values in own.items() if key not in given]
        for job in _product(table, found.rows, [*theirs, *asked]):
            jobs.setdefault((experiment_of(job.config), config_digest(job.config)), job)
    return list(jobs.values())


def _meant(grids: Sequence[Mapping[str, str]], overrides: Sequence[str]) -> list[tuple[Mapping[str, str], list[str]]]:
    """Each grid with the overrides for it: of a key whose values tell the grids apart, those that it has."""
    meant = [(grid, list(overrides)) for grid in grids]
    for override in overrides:
        key, _, values = override.partition("=")
        if len(meant) < 2 or not all(key in grid for grid, _ in meant):
            continue
        found = [grid[key].split(",") for grid, _ in meant]
        if sum(map(len, found)) != len(set().union(*found)) or not set(values.split(",")) <= set().union(*found):
            continue
        asked = [[value for value in values.split(",") if value in own] for own in found]
        meant = [
            (grid, [f"{key}={','.join(own)}" if each == override else each for each in given])
            for (grid, given), own in zip(meant, asked, strict=True)
            if own
        ]
    return meant


def _product(table: str, rows: Mapping[str, Mapping[str, Any]], overrides: Sequence[str]) -> list[Job]:
    """The jobs of every row, seed by seed."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    jobs: list[Job] = []
    without: dict[str, dict[str, None]] = {}  # override to the rows that do not have its key
    with composing():
        for grid in BasicSweeper.split_arguments(parsed, None)[0]:
            optional = [override for override in grid if _is_number(override) and _varies(override, rows)]
            here = {row: _applied(f"experiment={table}/{row}", grid, optional) for row in rows}
            jobs += [job for job, _ in here.values()]
            for override in optional:
                lacking = [row for row, (_, lacks) in here.items() if override in lacks]
                if len(lacking) == len(rows):
                    raise ValueError(_no_such_key(table, override, jobs))
                without.setdefault(override, {}).update(dict.fromkeys(lacking))
    for override, told in without.items():
        if told:
            log.info("%s: %d of %d rows have no such key: %s", override, len(told), len(rows), ", ".join(told))
    return sorted(jobs, key=lambda job: (job.config.seed, job.config.row.order))


def _applied(row: str, grid: Sequence[str], optional: Sequence[str]) -> tuple[Job, list[str]]:
    """The job, and those of the optional overrides that it does without, for the row has no such key."""
    try:
        return Job(*composed([row, *grid]), tuple(grid)), []
    except HydraException:
        rest = [override for override in grid if override not in optional]
        bare = Job(*composed([row, *rest]), tuple(rest))
        lacking = [
            override for override in optional if _key_of(override)[1] not in _keys(bare.config, _key_of(override)[0])
        ]
        if not lacking:
            raise
        if lacking == optional:
            return bare, lacking
        rest = [override for override in grid if override not in lacking]
        return Job(*composed([row, *rest]), tuple(rest)), lacking


def _no_such_key(table: str, override: str, jobs: Sequence[Job]) -> str:
    section, name = _key_of(override)
    known = sorted({each for job in jobs for each in _keys(job.config, section)})
    return (
        f"{override}: no row of {table} has a key {name!r}.{near(name, known)} Known keys here: "
        f"{', '.join(known) or 'none'}."
    )


def _is_number(override: str) -> bool:
    """Whether it sets a value inside a section, as quantize.batch_size=16; not a choice, and nothing new."""
    section, name = _key_of(override)
    return all(part.isidentifier() for part in (*section.split("."), name))


def _varies(override: str, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the rows choose differently in the override's section; else what one lacks, all lack."""
    section = _key_of(override)[0].partition(".")[0]
    groups = {group for row in rows.values() for each in row["defaults"] for group in each}
    return any(re.search(rf"\b{section}\b", group.replace("evaluate", "metrics")) for group in groups)


def _key_of(override: str) -> tuple[str, str]:
    """Section and name of what an override sets."""
    section, _, name = override.partition("=")[0].rpartition(".")
    return section, name


def _keys(config: DictConfig, section: str) -> list[str]:
    found = OmegaConf.select(config, section)
    return [str(key) for key in found] if isinstance(found, DictConfig) else []
