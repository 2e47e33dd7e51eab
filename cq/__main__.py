"""The Hydra entry: `cq model=... schedule=...` runs one configuration, `cq -m ...` a grid of them."""

import logging
import re
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cq.config import RunConfig

CONF = Path(__file__).parent.parent / "conf"
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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> None:
    from cq.ledger import execute

    try:
        execute(config, HydraConfig.get().runtime.choices)
    except ValueError as error:
        log.error("%s", error)
        raise SystemExit(2) from error


def main() -> None:
    """Console entry."""
    try:
        sys.argv[1:] = expand_globs(sys.argv[1:])
    except ValueError as error:
        raise SystemExit(f"cq: {error}") from error
    _run()


if __name__ == "__main__":
    main()
