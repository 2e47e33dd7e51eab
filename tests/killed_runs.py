"""Runs that are killed at random moments: `python -m tests.killed_runs WEIGHTS ROOT KILLS SEED` prints what came out.

One process imports and composes; every run is a fork of it, so a kill costs no start of Python.
"""

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image  # noqa: F401 - imported here, so that no fork has to
from omegaconf import DictConfig

from cq.core.acceleration import Acceleration
from cq.core.artifacts import Artifact, CacheSchedule, ChannelAffine, QuantParams, SampleSet, TrajectoryStatistics
from cq.evaluate.latency import Timing
from cq.run.components import Components
from cq.run.context import Run
from cq.run.ledger import execute
from cq.run.record import RunRecord
from cq.run.record_file import read
from tests.tiny_runs import composed, quick

KINDS: dict[str, type[Artifact]] = {
    kind.__name__: kind
    for kind in (Acceleration, CacheSchedule, ChannelAffine, QuantParams, SampleSet, TrajectoryStatistics, Timing)
}
EVERYTHING = (
    "experiment=table5/quant_dps_dec", "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2",
    "sample.num_images=6", "budget.num_steps=6",
)  # fmt: skip


def fork(work: Callable[[], object], log: Path) -> int:
    """The process id of a child that does `work`; its exit status is 1 where that raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        logging.basicConfig(filename=log, level=logging.INFO, format="%(message)s")
        sys.stderr = log.with_suffix(".err").open("a")
        work()
        status = 0
    except BaseException:
        logging.exception("the run raised")
    finally:
        os._exit(status)


def ended(pid: int) -> bool:
    """Wait for a child; whether it ended well."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def check_nothing_is_half_there(root: Path) -> list[str]:
    """Load everything that looks finished; the names of what does not."""
    unfinished = []
    for stage in (root / "store").glob("*/"):
        for path in stage.iterdir():
            if path.is_dir() and not path.suffix:
                KINDS[json.loads((path / "artifact.json").read_text())["kind"]].load(path)
            elif path.is_dir():
                unfinished.append(f"{stage.name}{path.suffix}")
    if (root / "records.jsonl").exists():
        assert all(record.status == "ok" for record in read(root / "records.jsonl"))
    return unfinished


def check_nothing_is_left_over(root: Path) -> None:
    left_over = [str(path) for path in root.rglob("*") if path.suffix in (".tmp", ".partial")]
    assert left_over == [], left_over


def digests(record: RunRecord) -> dict[str, str]:
    """What must not depend on kills: the images, and every artefact that any run reads (times differ by nature).

    The statistics are not read where the schedule and the correction made from them are there already.
    """
    artifacts = {k: v for k, v in record.artifacts.items() if k not in ("timing", "statistics")}
    return {**artifacts, "images": record.images_digest}


def only_record(root: Path) -> RunRecord:
    (record,) = read(root / "records.jsonl")
    return record


def killed(configure: Callable[[Path], tuple[DictConfig, dict[str, str]]], root: Path, kills: int, seed: int) -> Any:
    """Kill `kills` times, resuming each time; a run that ends is compared, and the next one begins with nothing."""
    draw = random.Random(seed)
    undisturbed = root / "undisturbed"
    config, choices = configure(undisturbed)
    started = time.monotonic()
    assert ended(fork(lambda: execute(config, choices), root / "undisturbed.log")), "see undisturbed.log"
    duration = time.monotonic() - started
    expected = digests(only_record(undisturbed))
    moments: list[dict[str, Any]] = []
    rounds = 0
    while True:
        here = root / f"round{rounds}"
        config, choices = configure(here)
        resumed = 0
        while True:
            pid = fork(lambda config=config, choices=choices: execute(config, choices), root / f"round{rounds}.log")  # type: ignore[misc]
            if len(moments) < kills:
                delay = draw.uniform(0, duration / 3)
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
            if ended(pid):
                break
            assert len(moments) < kills, f"see round{rounds}.log"
            assert "the run raised" not in (root / f"round{rounds}.log").read_text()
            moments.append({"seconds": round(delay, 3), "unfinished": check_nothing_is_half_there(here)})
            resumed += 1
        assert check_nothing_is_half_there(here) == []
        check_nothing_is_left_over(here)
        assert digests(only_record(here)) == expected
        rounds += 1
        if len(moments) >= kills:
            return {"seconds": duration, "rounds": rounds, "kills": moments}


def two_at_once(configure: Callable[[Path], tuple[DictConfig, dict[str, str]]], root: Path) -> Any:
    """Two processes, one store and one record file; how often each stage was made, and the digests of both."""
    here = root / "both"
    config, choices = configure(here)
    logs = [root / f"both{i}.log" for i in range(2)]
    pids = [fork(lambda: execute(config, choices), log) for log in logs]
    well = [ended(pid) for pid in pids]
    assert all(well), "see both0.log and both1.log"
    check_nothing_is_half_there(here)
    check_nothing_is_left_over(here)
    lines = [line.split() for log in logs for line in log.read_text().splitlines()]
    made = [words[0] for words in lines if words[1:2] == ["done:"]]
    return {"made": sorted(made), "digests": [digests(record) for record in read(here / "records.jsonl")]}


def main(weights: Path, root: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork

    def configure(folder: Path) -> tuple[DictConfig, dict[str, str]]:
        return composed(quick(weights, folder, *EVERYTHING))

    Run(Components.of(configure(root / "imports")[0])).model  # noqa: B018 - for its imports, as above
    outcome = {"killed": killed(configure, root, kills, seed), "both": two_at_once(configure, root)}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
