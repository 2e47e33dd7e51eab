"""Tells Hydra of the rows of the tables, choices of the group `experiment`, and of the yaml of others.

Rows in Hydra's ConfigStore would all be copied whenever anything is composed, which took a third of the time.
"""

from collections.abc import Sequence

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from cq.run.own import OwnYaml, searches_conf
from cq.run.tables import read_table, table_names

GROUP = "experiment"
DEPTH = 3  # experiment/table5/quant


class Rows(ConfigSource):
    """A folder `experiment` of one folder a table; a row is read from the file of its table when it is asked for."""

    @staticmethod
    def scheme() -> str:
        return "cq-tables"

    def load_config(self, config_path: str) -> ConfigResult:
        """Raises ConfigLoadError where there is no such row, and ValueError as `read_table`."""
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        _, table, row = _parts(config_path)
        node = OmegaConf.create(dict(read_table(table).rows[row]))
        return ConfigResult(
            config=node, path=self.full_path(), provider=f"conf/table/{table}.yaml", header={"package": "_global_"}
        )

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return bool(_names(_parts(config_path)))

    def is_config(self, config_path: str) -> bool:
        parts = _parts(config_path)
        return len(parts) == DEPTH and parts[-1] in _names(parts[:-1])

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        parts = _parts(config_path)
        kind = ObjectType.CONFIG if len(parts) == DEPTH - 1 else ObjectType.GROUP
        return sorted(_names(parts)) if results_filter in (None, kind) else []


class SearchPath(SearchPathPlugin):
    """Adds the rows to the search path of whatever is composed over our conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if searches_conf(search_path):
            search_path.append("cq", f"{Rows.scheme()}://")


def register() -> None:
    """Tell Hydra of every row and of the yaml of others; a process that a launcher starts is told by it."""
    for plugin in (OwnYaml, Rows, SearchPath):
        Plugins.instance().register(plugin)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.removesuffix(".yaml").split("/") if part)


def _names(parts: tuple[str, ...]) -> Sequence[str]:
    """What a folder holds; nothing where there is no such folder."""
    if not parts:
        return [GROUP]
    if parts[0] != GROUP or len(parts) >= DEPTH:
        return []
    tables = table_names()
    if len(parts) == 1:
        return tables
    return list(read_table(parts[1]).rows) if parts[1] in tables else []
