"""The measurements of a scenario, each a process of its own and a file: what is there already is not measured again."""

import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cq.bench.scenario import CAPS, EAGER, Cap, Scenario, Way, read_way
from cq.core.checksum import digest_of

log = logging.getLogger("cq.bench")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
RAW = "raw"  # the folder of the files


@dataclass(frozen=True, kw_only=True)
class Job:
    """kind: `time` for all ways at a number of threads under a cap, `weigh` for the bytes and counts of one way."""

    name: str
    scenario: Scenario
    kind: Literal["time", "weigh"]
    threads: int
    cap: Cap
    ways: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its name among the files."""
        what = f"{self.cap}-{self.threads}" if self.kind == "time" else f"weigh-{self.ways[0]}"
        return f"{self.name}.{what}.json"

    @property
    def question(self) -> str:
        """SHA-256 (hex) of what decides the answer beside the machine."""
        asked = {name: asdict(read_way(name)) for name in self.ways}
        whole = {**asdict(self.scenario), "threads": self.threads, "caps": self.cap, "ways": asked}
        return digest_of({key: value for key, value in whole.items() if key not in ("title", "paper")})

    @property
    def environment(self) -> dict[str, str]:
        """Of its process."""
        caps = {name for cap in CAPS.values() for name in cap}
        own = {name: value for name, value in os.environ.items() if name not in caps}
        return {**own, **dict.fromkeys(THREADS, str(self.threads)), **CAPS[self.cap]}

    @property
    def parts(self) -> bool:
        """Whether it says where the time goes, too: natively, at the fewest threads."""
        return self.cap == "native" and self.threads == min(self.scenario.threads)


def jobs_of(
    name: str, scenario: Scenario, *, threads: Sequence[int] = (), caps: Sequence[Cap] = (), weigh: bool = True
) -> Iterator[Job]:
    """All of a scenario's; threads and caps: only these."""
    for cap, count in itertools.product(caps or scenario.caps, threads or scenario.threads):
        yield Job(name=name, scenario=scenario, kind="time", threads=count, cap=cap, ways=scenario.ways)
    for way in scenario.ways if weigh else ():
        if way != EAGER and read_way(way).baseline:
            continue  # the same weights once more
        yield Job(name=name, scenario=scenario, kind="weigh", threads=max(scenario.threads), cap="native", ways=(way,))


def found(job: Job, out: Path) -> dict[str, Any] | None:
    """What was measured for this very question; None where nothing was."""
    path = out / RAW / job.file
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text())
    return document if document.get("question") == job.question else None


def measured(jobs: Iterable[Job], out: Path, *, store: Path, seconds: dict[str, float]) -> None:
    """Do what is missing, one after another. seconds: the estimate of each by file, to say how far it is.

    Raises ValueError, with the last words of the process, where one ends without a result; those before it are kept.
    """
    jobs = list(jobs)
    for number, job in enumerate(jobs, start=1):
        left = sum(seconds[each.file] for each in jobs[number - 1 :])
        log.info("%d of %d, about %.0f min left: %s", number, len(jobs), left / 60, job.file.removesuffix(".json"))
        path = out / RAW / job.file
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = {
            "question": job.question, "scenario": job.name, "kind": job.kind, "threads": job.threads, "cap": job.cap,
            "ways": job.ways, "parts": job.parts, "store": str(store), "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }  # fmt: skip
        command = [sys.executable, "-m", "cq.bench.worker", str(path), json.dumps(asked)]
        done = subprocess.run(command, env=job.environment, check=False)
        if done.returncode or found(job, out) is None:
            raise ValueError(
                f"{job.file}: its process ended with {done.returncode} and no result. What it said stands above; the "
                "same command goes on from here."
            )


def longest(way: Way, scenario: Scenario) -> int:
    """Trajectories of one way: its rounds, and the one that is not counted."""
    return (way.rounds or scenario.rounds) + 1
