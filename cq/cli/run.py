"""The Hydra entry: `cq model=... schedule=...` runs one configuration, `cq -m ...` a grid of them."""

import fnmatch
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cq.cli.commands import FAILED, REFUSED, ended, say
from cq.cli.sweep import OwnCell, Sweep, summary
from cq.report.signatures import warn_of
from cq.run.config import CONF
from cq.run.explain import explain
from cq.run.ledger import RunError, execute
from cq.run.objective import Missing, returned
from cq.run.own import allowing, said
from cq.run.rows import register
from cq.run.tables import experiments, table_names
from cq.search.sweeper import OPTUNA, register_sweeper

TRACEBACKS = "CQ_TRACEBACKS"  # what HYDRA_FULL_ERROR was before we set it, for the processes of a launcher


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


_errors: list[Exception] = []  # of the jobs of this process; Hydra would end with the first one


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> tuple[float, ...] | Missing:
    """What `objective` asks for, which a grid does not read and a search does."""
    asked = HydraConfig.get()
    with OwnCell(asked) as cell:
        if config.fail_fast and (_errors or cell.others_failed):
            cell.ended("not run")
            return Missing(reason="not run, for fail_fast=true", refused=True)
        try:
            record = execute(config, asked.runtime.choices, list(asked.overrides.task))
            warn_of(record)
            found = returned(record, config.objective)
            cell.answered(record)
            return found
        except (ValueError, OSError, RunError) as error:
            missing = Missing(reason=explain(error), refused=not isinstance(error, RunError))
            if os.environ.get(TRACEBACKS) == "1" or (isinstance(error, RunError) and not error.mendable):
                traceback.print_exception(error)
            if missing.refused and asked.sweeper._target_ == OPTUNA:  # a search looks elsewhere
                cell.ended("left out")
            else:
                _errors.append(error)
                cell.ended("refused" if missing.refused else "failed", missing.reason)  # the other cells go on
            return missing
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # of a component of your own, while it was built or checked
            traceback.print_exception(error)
            missing = Missing(reason=f"{type(error).__name__}: {error}", refused=False)
            _errors.append(RuntimeError(missing.reason))
            cell.ended("failed", missing.reason)
            return missing


def _by_table(arguments: Sequence[str]) -> str:
    """What to do where a number is refused that some rows of a sweep over a table do not have: Hydra asks all of it."""
    swept = [word for word in arguments if word.startswith("experiment=") and "," in word]
    tables = {row.partition("/")[0] for word in swept for row in word.removeprefix("experiment=").split(",")}
    if len(tables) != 1 or not tables <= set(table_names()):
        return ""
    rest = [*said(), *(word for word in arguments if word not in (*swept, "-m", "--multirun"))]
    return f"Where some rows alone have it, cq-table gives it to those: {shlex.join(['cq-table', *tables, *rest])}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what Hydra's arguments say. Exit status: see `cq.cli.commands.ended`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return ended("cq", lambda: _command(given))


def _command(arguments: list[str]) -> int:
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    _errors.clear()
    try:
        arguments = allowing(arguments)
        register()
        register_sweeper()
        sys.argv[1:] = expand_globs(arguments)  # where Hydra reads them
        # Hydra hands its errors on instead of printing them
        os.environ |= {"HYDRA_FULL_ERROR": "1", TRACEBACKS: before}
        _run()
    except HydraException as error:
        if remedy := _by_table(sys.argv[1:]):
            raise ValueError(f"{explain(error)} {remedy}") from error
        raise
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before
        cells = Sweep.over()
    if lines := summary(cells):
        say("cq", "\n".join(lines))
    elif not cells:
        for failure in _errors:
            say("cq", explain(failure))
    if any(isinstance(failure, RunError | RuntimeError) for failure in _errors) or {"failed", "running"} & {
        c.status for c in cells
    }:
        return FAILED
    return REFUSED if _errors or any(cell.status == "refused" for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
