"""Processes that share a run: the artefacts are those of one process, killed or not, and a failure is everybody's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cq.core.processes import PeerError, Processes

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcome(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("shared")
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared_runs", str(tiny_folder), str(root)],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_processes_make_what_one_makes_bit_for_bit(outcome: Any) -> None:
    """Sampling and statistics in batches of unequal number and size; digests of every artefact and of the images."""
    one, two = outcome["digests"]["1"], outcome["digests"]["2"]
    assert {"schedule", "cache_correction", "samples", "samples_full_precision", "images"} <= set(one)
    assert one == two


def test_two_processes_killed_half_way_make_only_what_is_missing(outcome: Any) -> None:
    killed = outcome["killed"]
    assert killed["digests"] == outcome["digests"]["1"]
    of_each_process = [line.split() for line in killed["said"] if "of 2 batches" in line]  # 4 batches, 2 each
    baseline = [int(words[1]) for words in of_each_process if words[0] == "samples_full_precision:"]
    assert 2 <= sum(baseline) == killed["kept"] <= 4


class Told(Processes):
    """A process whose peers say what the test wants."""

    def __init__(self, index: int, peers: list[str]) -> None:
        super().__init__(index, 2)
        self.peers = peers
        self.theirs: Any = "theirs"
        self.exchanges = 0

    def _gather(self, said: str, value: Any) -> list[tuple[str, Any]]:
        self.exchanges += 1
        mine, theirs = (said, value), (self.peers.pop(0), self.theirs)
        return [mine, theirs] if self.is_main else [theirs, mine]


def test_work_is_dealt_by_index_and_nothing_is_left_out() -> None:
    items = range(7)
    assert sorted([*Processes(0, 2).share_of(items), *Processes(1, 2).share_of(items)]) == list(items)
    assert Processes(0, 1).share_of(items) == items
    with Processes(1, 2).alone():
        pass


def test_a_failure_of_another_process_is_raised_here_once() -> None:
    told = Told(0, ["process 1: OSError: disk full"])
    with pytest.raises(PeerError, match="process 1: OSError: disk full"), told.step(), told.step():
        pass
    assert told.exchanges == 1  # the outer step knows


def test_an_error_of_ones_own_is_told_and_keeps_its_type() -> None:
    told = Told(0, [""])
    with pytest.raises(ValueError, match="mine"), told.step(), told.step():
        raise ValueError("mine")
    assert told.exchanges == 1
    told.begin()
    told.peers.append("")
    with told.step():
        pass
    assert told.exchanges == 2


def test_processes_that_compute_otherwise_are_refused() -> None:
    """Their parts of one artefact would not be those that one process makes."""
    main, other = Told(0, ["", ""]), Told(1, ["", ""])
    assert main.agreed({"threads": 1}) == {"threads": 1}
    other.theirs = {"threads": 1}
    with pytest.raises(ValueError, match=r"process 1 computes with .*'threads': 2.*OMP_NUM_THREADS"):
        other.agreed({"threads": 2})


def test_a_process_that_is_alone_says_nothing_to_anybody() -> None:
    told = Told(0, [])
    with told.alone(), told.step():
        assert told.told("mine") == "mine"
    assert told.exchanges == 0
