"""Sweeps that are killed at random moments: `python -m tests.killed_sweeps WEIGHTS ROOT KILLS SEED [OVERRIDES]`.

Every attempt is the same command, `cq -m` over a grid, in a fork of one process that has imported everything. One cell
of the grid fails each time. What comes out is compared with an undisturbed sweep and printed.
"""

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image  # noqa: F401 - imported here, so that no fork has to

import cq.run.pipeline
from cq.cli.run import main as cq_main
from cq.run.components import Components
from cq.run.context import Run
from cq.run.record import RunRecord
from cq.run.record_file import read
from cq.run.tracking import NO_LOG, RunLog
from tests.killed_runs import check_nothing_is_half_there, check_nothing_is_left_over, ended
from tests.tiny_runs import composed, quick

GRID = (
    "schedule=uniform,dps", "correct@correct.cache=none,channel_affine", "quantize=none,minmax", "seed=0,1,2",
)  # fmt: skip
DONE = re.compile(r"(\w+) done: [\d.]+ s, (\w+)$", re.MULTILINE)


def arguments(weights: Path, root: Path, grid: tuple[str, ...]) -> list[str]:
    return ["-m", *quick(weights, root, *grid, f"hydra.sweep.dir={root}/sweep")]


def breaking(parts: Components, live: RunLog = NO_LOG) -> Any:
    """The first cell of the grid fails in every attempt."""
    if (
        type(parts.planner).__name__ == "Uniform"
        and not parts.correct_cache.corrects | parts.quantized | parts.run_seed
    ):
        raise RuntimeError("this cell always breaks")
    return made(parts, live)


made = cq.run.pipeline.run


def started(words: list[str], log: Path) -> int:
    """The process id of a fork that runs `cq` to its end; it exits as that does."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    cq.run.pipeline.run = breaking
    os._exit(cq_main(words))


def lasting(record: RunRecord) -> dict[str, Any]:
    """All that must not depend on kills. Statistics are not read where what was made from them is there already."""
    document = asdict(record)
    for name in ("date", "seconds", "made", "measured"):
        del document[name]
    for name in ("artifacts", "folders"):
        document[name] = {stage: value for stage, value in document[name].items() if stage != "statistics"}
    document["overrides"] = [word for word in document["overrides"] if not word.startswith("paths.")]
    del document["config"]["paths"]
    return document


def last_ones(root: Path) -> dict[str, dict[str, Any]]:
    """The records of a sweep by their key, as strict JSON has them; a cell that failed again replaces itself."""
    return {str(record.key): json.loads(json.dumps(lasting(record))) for record in read(root / "records.jsonl")}


def well(root: Path) -> int:
    """How many records ended well; each question has one of them at most."""
    good = [record.key for record in read(root / "records.jsonl") if record.status == "ok"]
    assert len(good) == len(set(good))
    return len(good)


def killed(weights: Path, root: Path, kills: int, seed: int, grid: tuple[str, ...]) -> dict[str, Any]:
    draw = random.Random(seed)
    calm, here = root / "undisturbed", root / "killed"
    began = time.monotonic()
    pid = started(arguments(weights, calm, grid), root / "undisturbed.log")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "see undisturbed.log"  # for the cell that breaks
    duration = time.monotonic() - began
    moments = []
    for _ in range(kills):
        pid = started(arguments(weights, here, grid), root / "killed.log")
        moments.append(round(draw.uniform(0.1, 0.4) * duration, 2))
        time.sleep(moments[-1])
        os.kill(pid, signal.SIGKILL)
        assert not ended(pid)
        if (here / "store").exists():
            check_whole(here)
    pid = started(arguments(weights, here, grid), root / "killed.log")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, "see killed.log"
    check_nothing_is_left_over(here)
    assert last_ones(here) == last_ones(calm)
    assert well(here) == well(calm)
    counts = [Counter(DONE.findall((root / f"{name}.log").read_text())) for name in ("killed", "undisturbed")]
    assert counts[0] <= counts[1], counts[0] - counts[1]  # a kill may come between an artefact and its line in the log
    return {
        "seconds": round(duration, 1), "kills": moments, "cells": len(last_ones(here)), "well": well(here),
        "made": sum(counts[0].values()), "made_undisturbed": sum(counts[1].values()),
    }  # fmt: skip


def check_whole(root: Path) -> None:
    """Load every artefact that looks finished; of the records only that they can be read."""
    records = root / "records.jsonl"
    hidden = records.with_suffix(".aside")
    if records.exists():
        read(records)
        records.rename(hidden)  # its failed cell is expected
    check_nothing_is_half_there(root)
    if hidden.exists():
        hidden.rename(records)


def main(weights: Path, root: Path, kills: int, seed: int, grid: tuple[str, ...]) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    Run(Components.of(composed(quick(weights, root / "imports"))[0])).model  # noqa: B018 - for its imports, as above
    sys.stdout.write(json.dumps(killed(weights, root, kills, seed, grid)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), tuple(sys.argv[5:]) or GRID)
