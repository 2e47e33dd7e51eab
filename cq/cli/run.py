"""The Hydra entry: `cq model=... schedule=...` runs one configuration, `cq -m ...` a grid of them."""

import fnmatch
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cq.cli.commands import FAILED, REFUSED, ended, say
from cq.report.signatures import warn_of
from cq.run.config import CONF
from cq.run.explain import explain
from cq.run.ledger import RunError, execute
from cq.run.objective import Missing, returned
from cq.run.own import allowing
from cq.run.tables import experiments, register, table_names
from cq.search.sweeper import OPTUNA, register_sweeper

log = logging.getLogger("cq")


def expand_globs(arguments: list[str]) -> list[str]:
    """`experiment=glob(table5/*)` to `experiment=table5/a,table5/b,...`: Hydra's own glob sees no subgroups."""
    out = []
    for argument in arguments:
        match = re.fullmatch(r"experiment=glob\((.*/[^()]*)\)", argument)
        if match is None:
            out.append(argument)
            continue
        found = fnmatch.filter(experiments(), match.group(1))
        if not found:
            raise ValueError(f"{argument}: no row matches. Tables are {', '.join(table_names())}: see conf/table.")
        out.append(f"experiment={','.join(found)}")
    return out


_errors: list[Exception] = []  # of the jobs of this command; Hydra would end with the first one


class JobError(RuntimeError):
    """A job that a launcher ran in another process could not be done; only the message comes back."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> tuple[float, ...] | Missing:
    """What `objective` asks for, which a grid does not read and a search does."""
    try:
        record = execute(config, HydraConfig.get().runtime.choices, list(HydraConfig.get().overrides.task))
        warn_of(record)
        return returned(record, config.objective)
    except (ValueError, OSError, RunError) as error:
        missing = Missing(reason=explain(error), refused=not isinstance(error, RunError))
        if missing.refused and HydraConfig.get().sweeper._target_ == OPTUNA:
            return missing  # a search looks elsewhere
        if not HydraConfig.get().launcher._target_.endswith(".BasicLauncher"):
            raise JobError(missing.reason) from None
        _errors.append(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("%s", missing.reason)  # the other jobs of the sweep go on
        return missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what Hydra's arguments say. Exit status: see `cq.cli.commands.ended`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return ended("cq", lambda: _command(given))


def _command(arguments: list[str]) -> int:
    tracebacks = os.environ.get("HYDRA_FULL_ERROR", "0")
    _errors.clear()
    try:
        arguments = allowing(arguments)
        register()
        register_sweeper()
        sys.argv[1:] = expand_globs(arguments)  # where Hydra reads them
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
        _run()
    except JobError as error:
        say("cq", str(error))
        return FAILED
    finally:
        os.environ["HYDRA_FULL_ERROR"] = tracebacks
    for failure in _errors:
        if tracebacks == "1" or (isinstance(failure, RunError) and not failure.mendable):
            traceback.print_exception(failure)
        say("cq", explain(failure))
    if any(isinstance(failure, RunError) for failure in _errors):
        return FAILED
    return REFUSED if _errors else 0


if __name__ == "__main__":
    sys.exit(main())
