"""The scripts under experiments/ run end to end at their smallest sizes: `pytest tests/test_experiments.py -m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / name / "run.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_memory_compares_parts_of_maps_with_all_of_them(tmp_path: Path) -> None:
    sizes = ["--steps", "45", "--samples", "2", "--images", "4", "--keep", "4", "--repeats", "1"]
    script("memory", "ldm_mini", *sizes, "--out", str(tmp_path))
    found: Any = json.loads((tmp_path / "memory_ldm_mini.json").read_text())
    assert [row["method"] for row in found["collections"]] == ["loop", "exact", "positions", "pooling"]
    exact, *parts = found["collections"][1:]
    assert exact["distance_error"] == 0
    assert all(one["same_schedule"] for one in exact["schedules"].values())
    for part in parts:
        assert part["kept_bytes"] < exact["kept_bytes"]
        assert all(one["true_cost_over_optimum"] >= 1 - 1e-9 for one in part["schedules"].values())
    assert (tmp_path / "figures/memory_ldm_mini.png").exists()


@pytest.mark.slow
def test_the_planner_is_compared_with_runs(tmp_path: Path) -> None:
    """At this size nothing is within bounds in time: what is shown is that every row runs and is compared."""
    out = tmp_path / "planner.json"
    script("planner", "--overrides", "debug=smoke", "--out", str(out))
    found: Any = json.loads(out.read_text())
    assert len(found["rows"]) == 5
    for row in found["rows"].values():
        assert row["took"]["seconds"] > 0
        assert abs(row["error"]["bytes"]) < 0.3
