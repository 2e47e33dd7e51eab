"""The Hydra entry: `cq model=... schedule=...` runs one configuration, `cq -m ...` a grid of them."""

import difflib
import logging
import os
import re
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cq.config import RunConfig
from cq.ledger import RunError, execute

CONF = Path(__file__).parent.parent / "conf"
FAILED, REFUSED, INTERRUPTED = 1, 2, 130  # exit statuses
log = logging.getLogger("cq")

ConfigStore.instance().store(name="run_config", node=RunConfig)


def expand_globs(arguments: list[str]) -> list[str]:
    """`experiment=glob(table5/*)` to `experiment=table5/a,table5/b,...`: Hydra's own glob sees no subfolders."""
    out = []
    for argument in arguments:
        match = re.fullmatch(r"(\w+)=glob\((.*/[^()]*)\)", argument)
        if match is None:
            out.append(argument)
            continue
        group, pattern = match.groups()
        files = sorted((CONF / group).glob(f"{pattern}.yaml"))
        if not files:
            raise ValueError(f"{argument}: no file matches {group}/{pattern}.yaml. Look into conf/{group}.")
        out.append(f"{group}=" + ",".join(str(p.relative_to(CONF / group).with_suffix("")) for p in files))
    return out


def explain(error: Exception) -> str:
    """One line for an error of Hydra's or of the operating system's: key, value, rule and remedy."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        files = (CONF / group).rglob("*.yaml")
        options = sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in files)
        return f"{group}={name}: there is no such choice.{_near(name, options)} Choose from: {', '.join(options)}."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Make room, or choose another folder; the same command then goes on."
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        given = re.search(r"use \+(.*)", str(error))
        keys = sorted(map(str, cause.parent_node))
        if "." not in str(cause.full_key):
            keys = sorted({*keys, *(p.name for p in CONF.iterdir() if p.is_dir())})
        return (
            f"{given.group(1) if given else cause.full_key}: there is no key {str(cause.key)!r}."
            f"{_near(str(cause.key), keys)} Known keys here: {', '.join(keys)}."
        )
    if isinstance(cause, ValidationError):
        given = re.search(r"merging override (.*)", str(error))
        key = given.group(1) if given else cause.full_key
        return f"{key}: {str(cause).splitlines()[0].rstrip('.')}. Give a value of that type."
    if isinstance(error, OverrideParseException):
        reason = error.message.splitlines()[0]
        return f"{error.override}: cannot be read ({reason}). Write key=value; quote brackets for the shell."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return str(error)
    lines = [*str(error).splitlines(), *(str(cause).splitlines() if cause is not error else [])]
    told = [line.strip().rstrip(".:") for line in lines if line.strip() and "_type=" not in line]
    return f"{'; '.join(told)}. Correct it; --cfg job prints the configuration with all of its keys."


def _near(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


_errors: list[ValueError | RunError] = []  # of the jobs of this command; Hydra would end with the first one


class JobError(RuntimeError):
    """A job that a launcher ran in another process could not be done; only the message comes back."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> None:
    try:
        execute(config, HydraConfig.get().runtime.choices)
    except (ValueError, RunError) as error:
        if not HydraConfig.get().launcher._target_.endswith(".BasicLauncher"):
            raise JobError(str(error)) from None
        _errors.append(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("%s", error)  # the other jobs of the sweep go on


def main() -> None:
    """Console entry. Exit status 0; 2 where the input is refused, 1 where a run failed, 130 where it was stopped."""
    tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0")
    _errors.clear()
    try:
        sys.argv[1:] = expand_globs(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("cq: stopped. The same command goes on from here.\n")
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, HydraException, OmegaConfBaseException, OSError) as error:
        if tracebacks == "1":
            raise
        sys.stderr.write(f"cq: {explain(error)}\n")
        raise SystemExit(REFUSED) from None
    except JobError as error:
        sys.stderr.write(f"cq: {error}\n")
        raise SystemExit(FAILED) from None
    finally:
        os.environ["HYDRA_FULL_ERROR"] = tracebacks
    for failure in _errors:
        if tracebacks == "1" or (isinstance(failure, RunError) and not failure.mendable):
            traceback.print_exception(failure)
        sys.stderr.write(f"cq: {failure}\n")
    if _errors:
        raise SystemExit(FAILED if any(isinstance(failure, RunError) for failure in _errors) else REFUSED)


if __name__ == "__main__":
    main()
