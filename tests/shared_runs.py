"""Runs shared by processes: `python -m tests.shared_runs WEIGHTS ROOT` prints what came out.

As in tests/killed_runs.py, one process imports, and every process of a run is a fork of it.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image  # noqa: F401 - imported here, so that no fork has to
from accelerate import PartialState
from omegaconf import DictConfig

from cq.core.processes import here
from cq.run.components import Components
from cq.run.context import Run
from cq.run.ledger import execute
from tests.killed_runs import check_nothing_is_left_over, digests, ended, fork, only_record
from tests.tiny_runs import composed, quick

RUN = (
    "experiment=table5/cache_dps", "correct@correct.cache=channel_affine", "budget.num_steps=4",
    "calibrate.num_samples=3", "calibrate.batch_size=1", "sample.num_images=7", "sample.batch_size=2",
)  # fmt: skip


def ranks(count: int, config: DictConfig, choices: dict[str, str], log: Path) -> list[int]:
    """The process ids of `count` processes that share a run; what torchrun would set is set here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def rank(index: int) -> None:
        if count > 1:
            os.environ |= {
                "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        here.cache_clear()
        PartialState._reset_state()  # the parent was alone
        execute(config, choices)

    return [fork(lambda index=index: rank(index), log.with_suffix(f".{index}.log")) for index in range(count)]  # type: ignore[misc]


def shards(root: Path, stage: str) -> dict[str, int]:
    """The finished shards of an unfinished stage, and when each was written."""
    return {p.name: p.stat().st_mtime_ns for p in (root / "store" / stage).glob("*.partial/*.safetensors")}


def already(root: Path, count: int) -> list[str]:
    """What the processes of the second attempt said of the shards they found."""
    lines = [line for i in range(count) for line in (root.parent / f"again.{i}.log").read_text().splitlines()]
    return [line for line in lines if "are there already" in line]


def main(weights: Path, root: Path) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork

    def configure(name: str) -> tuple[DictConfig, dict[str, str]]:
        return composed(quick(weights, root / name, *RUN))

    Run(Components.of(configure("imports")[0])).model  # noqa: B018 - for its imports, as above
    out: dict[str, Any] = {"digests": {}}
    for count in (1, 2):
        pids = ranks(count, *configure(f"of{count}"), root / f"of{count}")
        well = [ended(pid) for pid in pids]  # wait for every one
        assert all(well), f"see of{count}.*.log"
        check_nothing_is_left_over(root / f"of{count}")
        out["digests"][count] = digests(only_record(root / f"of{count}"))
    here_ = root / "killed"
    pids = ranks(2, *configure("killed"), root / "killed")
    started = time.monotonic()
    while len(shards(here_, "samples_full_precision")) < 2:
        assert time.monotonic() - started < 300, "no shard was written"
        time.sleep(0.005)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        ended(pid)
    kept = shards(here_, "samples_full_precision")
    pids = ranks(2, *configure("killed"), root / "again")
    well = [ended(pid) for pid in pids]
    assert all(well), "see again.*.log"
    out["killed"] = {
        "kept": len(kept), "said": already(here_, 2), "digests": digests(only_record(here_)),
    }  # fmt: skip
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
