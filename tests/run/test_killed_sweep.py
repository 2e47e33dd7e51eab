"""A sweep may be killed at any moment and go on with the same command: its records are those of an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GRID = ("schedule=uniform,dps", "quantize=none,minmax", "budget.num_steps=6")


def test_a_sweep_killed_at_random_moments_leaves_the_records_of_an_undisturbed_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Records, finished folders and stages were compared in it, and one cell of four always fails."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_sweeps", str(tiny_folder), str(tmp_path), "2", "0", *GRID],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert len(outcome["kills"]) == 2
    assert (outcome["cells"], outcome["well"]) == (4, 3)
