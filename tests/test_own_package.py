"""A package of somebody else's with a planner, a corrector and a metric: installed, swept, edited; and as a folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
PARTS = {"schedule", "cache_correction", "quant_params", "quant_correction", "output_correction"}


@pytest.fixture(scope="module")
def sweeps(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each sweep of tests/own_runs.py."""
    root, site = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("env") / "site-packages"
    clean = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    source, folder = (
        shutil.copytree(REPOSITORY / "notebooks/own_package", root / name, ignore=clean)
        for name in ("source", "folder")
    )
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
    subprocess.run([*PIP, "install", *offline, "--target", str(site), str(source)], check=True)
    path = os.pathsep.join([str(REPOSITORY), str(site)])
    # No bytecode: Python takes a file edited within one second to the same size for the file it had compiled.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.own_runs", *map(str, (tiny_folder, root, site, folder))],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_installed_package_is_swept(sweeps: dict[str, Any]) -> None:
    first = sweeps["first"]
    assert first["records"] == 2
    assert first["versions"] == ["0.1.0"] * 2
    assert first["refreshes"] == [[0, 1, 2, 4, 7]] * 2
    assert len(set(first["images"])) == 2
    assert set(first["made"]) >= {*PARTS, "statistics", "acceleration", "samples_full_precision", "samples"}


def test_what_is_edited_is_recomputed_and_only_what_depends_on_it(sweeps: dict[str, Any]) -> None:
    first, corrector = sweeps["first"], sweeps["the corrector edited"]
    assert corrector["records"] == 1  # the cell without it stands
    assert corrector["images"][0] not in first["images"]
    assert {"cache_correction", "acceleration", "samples"} <= set(corrector["made"])
    assert not {"schedule", "statistics", "samples_full_precision"} & set(corrector["made"])
    metric = sweeps["the metric edited"]
    assert metric["records"] == 1
    assert metric["images"] == first["images"][:1]
    assert metric["made"] == []
    assert metric["worst"][0] < first["worst"][0]
    planner = sweeps["what the planner imports edited"]
    assert planner["records"] == 1
    assert planner["refreshes"] != first["refreshes"][:1]
    assert {"schedule", "samples"} <= set(planner["made"])
    assert not {"statistics", "samples_full_precision"} & set(planner["made"])


def test_a_folder_does_the_same_and_is_recorded(sweeps: dict[str, Any]) -> None:
    first, folder = sweeps["first"], sweeps["a folder"]
    for name in ("refreshes", "images", "worst"):
        assert folder[name] == first[name][1:]
    assert all(override.startswith("cq.allow=") for override in folder["overrides"])
    assert not any(override.startswith("cq.allow=") for override in first["overrides"])
