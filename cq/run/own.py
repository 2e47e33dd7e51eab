"""Other people's code: packages and folders whose components may be chosen beside those of `cq`.

An installed package says so itself, by an entry point of the group `cq.components` whose value is its name. Any other
package or folder is allowed by hand: `cq.allow=my_package` or `cq.allow=[my_package,./folder]` on a command line,
`cq.allow("my_package")` in Python. Its yaml lies as ours does, `schedule/mine.yaml`, in `conf/` inside of it or of a
package in it, or where there is no `conf/` beside its modules. What was allowed by hand stands in the environment: so
the processes that a launcher starts know of it.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from cq.run.origin import PACKAGE, shipped

log = logging.getLogger(__name__)

CONF = shipped("conf")
GROUP = "cq.components"  # of entry points
KEY = "cq.allow"
VARIABLE = "CQ_ALLOW"


@dataclass(frozen=True, kw_only=True)
class Own:
    """word: what was allowed, a package or the path of a folder. modules: what the targets in it begin with.

    home: the folder that holds its source.
    """

    word: str
    modules: tuple[str, ...]
    home: Path

    @property
    def conf(self) -> tuple[Path, ...]:
        """The folders of its yaml."""
        if not self.home.is_dir():  # a single module
            return ()
        found = [path for path in (self.home / "conf", *sorted(self.home.glob("*/conf"))) if path.is_dir()]
        return tuple(found) or (self.home,)


def allow(*words: str) -> tuple[Own, ...]:
    """Let components be built from these packages and folders, and find their yaml; also in processes started later.

    A folder is told by a separator in its path, as ./folder. Raises ValueError where there is none of that name, or
    where one of its choices has the name of another.
    """
    asked = [_whole(word) for word in words]
    after = tuple(dict.fromkeys([*_words(), *asked]))
    found = _owned(after)
    os.environ[VARIABLE] = os.pathsep.join(after)
    return tuple(own for own in found if own.word in asked)


def allowing(arguments: Sequence[str]) -> list[str]:
    """Allow what `cq.allow=...` among the arguments of a command names, and return the others. Raises as `allow`."""
    out = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.lstrip("+") == KEY and equals:
            allow(*(word.strip(" '\"") for word in value.strip(" '\"[]").split(",") if word.strip(" '\"")))
        else:
            out.append(argument)
    return out


def said() -> tuple[str, ...]:
    """What was allowed by hand, as the command line would say it; empty where nothing was."""
    words = [_short(word) for word in _words()]
    return () if not words else (f"{KEY}={words[0] if len(words) == 1 else '[' + ','.join(words) + ']'}",)


def owned() -> tuple[Own, ...]:
    """Everything that is allowed beside `cq`."""
    return _owned(_words())


def owner(target: str) -> Own | None:
    """Whose the class or module of that dotted name is; None where nobody allowed it, and for those of `cq`."""
    return next((own for own in owned() if any(f"{target}.".startswith(f"{name}.") for name in own.modules)), None)


def conf_folders() -> list[Path]:
    """Where yaml is found: in our own folder first, then in those of others."""
    return [CONF, *(folder for own in owned() for folder in own.conf)]


class OwnYaml(SearchPathPlugin):
    """Adds the yaml of others to the search path of whatever is composed over our conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if searches_conf(search_path):
            for folder in conf_folders()[1:]:
                search_path.append(KEY, f"file://{folder}")


def searches_conf(search_path: ConfigSearchPath) -> bool:
    """Whether it is ours, and not that of another program that uses Hydra in this process."""
    return any((each.path or "").removeprefix("file://") == str(CONF) for each in search_path.get_path())


def _words() -> tuple[str, ...]:
    return tuple(word for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word)


def _is_folder(word: str) -> bool:
    return os.sep in word or word.startswith((".", "~"))


def _whole(word: str) -> str:
    """A folder by its absolute path, which means the same in every process."""
    return os.path.abspath(os.path.expanduser(word)) if _is_folder(word) else word


def _short(word: str) -> str:
    """A folder by its path from here, where that is shorter."""
    if not _is_folder(word):
        return word
    path = os.path.relpath(word)
    return min(path if path.startswith(os.pardir) else os.path.join(os.curdir, path), word, key=len)


@cache
def _owned(words: tuple[str, ...]) -> tuple[Own, ...]:
    found = [_folder(Path(word)) if _is_folder(word) else _package(word) for word in words]
    for entry in entry_points(group=GROUP):
        if entry.module not in words:
            try:
                found.append(_package(entry.module))
            except ValueError as error:  # a broken installation of somebody's is no reason to stop
                log.warning("%s=%s of %s: %s", GROUP, entry.value, entry.dist and entry.dist.name, error)
    taken = {path.relative_to(CONF): CONF for path in CONF.glob("*/**/*.yaml")}
    for folder in (folder for own in found for folder in own.conf):
        for path in folder.glob("*/**/*.yaml"):
            name = path.relative_to(folder)
            if taken.setdefault(name, folder) != folder:
                raise ValueError(f"{path}: {taken[name]} has a choice of that name, too. Rename this one.")
    return tuple(found)


def _package(name: str) -> Own:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or name.partition(".")[0] == PACKAGE.name:
        raise ValueError(f"{KEY}={name}: there is no package {name!r} here. Install it, or name its folder: ./{name}.")
    places = [*(spec.submodule_search_locations or []), spec.origin]
    return Own(word=name, modules=(name,), home=Path(str(places[0])))


def _folder(path: Path) -> Own:
    if not path.is_dir():
        raise ValueError(f"{KEY}={path}: there is no such folder. Name one that holds modules, with yaml in conf/.")
    whole = (path / "__init__.py").exists()  # a package, not a folder of modules
    root = path.parent if whole else path
    below = [*path.glob("*.py"), *(init.parent for init in path.glob("*/__init__.py"))]
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return Own(word=str(path), modules=(path.name,) if whole else tuple(sorted(each.stem for each in below)), home=path)
