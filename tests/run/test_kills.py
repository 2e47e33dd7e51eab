"""A run may be killed at any moment and resumed, or run twice at once: the images are those of an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def killed_runs(weights: Path, root: Path, *, kills: int, seed: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", str(weights), str(root), str(kills), str(seed)],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def outcome(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return killed_runs(tiny_folder, tmp_path_factory.mktemp("kills"), kills=3, seed=0)


def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(outcome: Any) -> None:
    """Digests, finished folders and record lines were compared after every kill; see tests/killed_runs.py."""
    assert len(outcome["killed"]["kills"]) == 3
    assert outcome["killed"]["rounds"] >= 1


def test_two_processes_at_once_share_every_stage_and_write_one_record(outcome: Any) -> None:
    made, digests = outcome["both"]["made"], outcome["both"]["digests"]
    assert len(made) == len(set(made))  # nobody made what the other one was making
    assert set(made) >= {"statistics", "schedule", "quant_params", "samples", "samples_full_precision"}
    assert len(digests) == 1  # who ends last finds the question answered


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_twenty_kills(tiny_folder: Path, tmp_path: Path, seed: int) -> None:
    assert len(killed_runs(tiny_folder, tmp_path, kills=20, seed=seed)["killed"]["kills"]) == 20
