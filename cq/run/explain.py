"""An error as one line: key, value, rule and remedy, whether it is Hydra's, the operating system's or ours."""

import re

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cq.core.failures import sentence
from cq.run.building import near
from cq.run.config import CONF
from cq.run.own import KEY, conf_folders
from cq.run.tables import experiments


def explain(error: Exception) -> str:
    """One line for an error of Hydra's, of the operating system's or of ours: key, value, rule and remedy."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        folders = [folder / group for folder in conf_folders()]
        files = [path.relative_to(folder) for folder in folders for path in folder.rglob("*.yaml")]
        choices = sorted(str(path.with_suffix("")) for path in files)
        options = experiments() if group == "experiment" else choices
        return (
            f"{group}={name}: there is no such choice.{near(name, options)} Choose from: {', '.join(options)}. "
            f"One of another package or folder needs {KEY}=PACKAGE."
        )
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        given = re.search(r"use \+(.*)", str(error))
        keys = sorted(map(str, cause.parent_node))
        if "." not in str(cause.full_key):
            groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"table"}  # whose rows are `experiment`
            keys = sorted({*keys, *groups, "experiment"})
        return (
            f"{given.group(1) if given else cause.full_key}: there is no key {str(cause.key)!r}."
            f"{near(str(cause.key), keys)} Known keys here: {', '.join(keys)}."
        )
    if isinstance(cause, ValidationError):
        given = re.search(r"merging override (.*)", str(error))
        key = given.group(1) if given else cause.full_key
        return f"{key}: {str(cause).splitlines()[0].rstrip('.')}. Give a value of that type."
    if isinstance(error, OverrideParseException):
        reason = error.message.splitlines()[0]
        return (
            f"{error.override}: cannot be read ({reason}). Write key=value; a value with spaces, =, ~ or brackets goes "
            """into quotes twice: 'key="value"'."""
        )
    if "Config group override" in str(error):
        return "a group is set to something that is no choice, as in model=null. Write GROUP=NAME: see cq --choices."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return sentence(error)
    lines = [*str(error).splitlines(), *(str(cause).splitlines() if cause is not error else [])]
    told = [line.strip().rstrip(".:") for line in lines if line.strip() and "_type=" not in line]
    return f"{'; '.join(told)}. Correct it; --cfg job prints the configuration with all of its keys."
