"""A schedule of one's own, edited between runs: `python -m tests.stale_runs WEIGHTS ROOT`, in a copy of the tree.

The working folder is a repository with everything committed but the schedule. As in tests/killed_runs.py, one process
imports, and every run is a fork of it, so that each imports the schedule as it is then.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image  # noqa: F401 - imported here, so that no fork has to

from cq.run import identity
from cq.run.components import Components
from cq.run.context import Run
from cq.run.ledger import execute
from cq.run.record_file import read
from tests.killed_runs import ended, fork
from tests.tiny_runs import composed, quick

MINE = """
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mine:
    def check(self, num_calls):
        pass

    def plan(self, request):
        from cq.core.artifacts import CacheSchedule

        calls = tuple(range(0, request.num_calls, EVERY))
        return CacheSchedule(num_calls=request.num_calls, refresh_calls=calls, planner="mine", interval=None)
"""
STEPS = (  # what stands in the schedule, or else another file that is changed, and what else is on the command line
    ("first", 2, ""), ("asked again", 2, ""), ("edited", 5, ""), ("edited back", 2, ""),
    ("forced", 2, "force=true"), ("edited and forced", 3, "force=true"), ("the loop edited", "cq/core/denoise.py", ""),
)  # fmt: skip


def main(weights: Path, root: Path) -> list[dict[str, Any]]:
    assert Path(identity.__file__).is_relative_to(Path.cwd()), identity.__file__
    torch.set_num_threads(1)  # threads do not survive a fork
    Run(Components.of(composed(quick(weights, root, "schedule=uniform"))[0])).model  # noqa: B018 - for its imports
    for each in vars(identity).values():  # as a process that has only begun
        getattr(each, "cache_clear", lambda: None)()
    module = Path("cq/schedule/mine.py")
    told = []
    for name, change, override in STEPS:
        if isinstance(change, int):
            module.write_text(MINE.replace("EVERY", str(change)))
        else:
            Path(change).write_text(Path(change).read_text() + "# edited\n")
        log = root / f"{name}.log"
        pid = fork(lambda override=override: execute(*run(weights, root, override)), log)  # type: ignore[misc]
        assert ended(pid), log.read_text()
        records = read(root / "records.jsonl")
        lines = [line.split(maxsplit=2) for line in log.read_text().splitlines()]
        told.append(
            {
                "step": name,
                "records": len(records),
                "refreshes": list(records[-1].schedule["refresh_calls"]),
                "images": records[-1].images_digest,
                "found": sorted(words[0] for words in lines if words[1:2] == ["found:"]),
                "made": sorted(words[0] for words in lines if words[1:2] == ["done:"]),
            }
        )
    return told


def run(weights: Path, root: Path, override: str) -> Any:
    return composed(quick(weights, root, "schedule._target_=cq.schedule.mine.Mine", *filter(None, [override])))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
