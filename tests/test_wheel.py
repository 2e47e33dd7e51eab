"""The wheel holds what the repository has, and runs in somebody else's repository; built and installed offline."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cq import __version__

ROOT = Path(__file__).parents[1]
SOURCES = ("cq", "conf", "results", "pyproject.toml", "setup.py", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
GIT = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")


def done(*command: str, cwd: Path, path: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def expected() -> set[str]:
    """What a wheel holds: the package, and from beside it the configurations and the published numbers."""
    files = [path for name in ("cq", "conf") for path in (ROOT / name).rglob("*") if path.is_file()]
    names = {str(path.relative_to(ROOT)) for path in files if not {"__pycache__", ".DS_Store"} & set(path.parts)}
    return {name if name.startswith("cq/") else f"cq/{name}" for name in names} | {"cq/results/paper.csv"}


def test_the_wheel_holds_everything_and_runs_in_a_foreign_repository(tmp_path: Path) -> None:
    source, project = tmp_path / "source", tmp_path / "project"
    source.mkdir()
    project.mkdir()
    for name in SOURCES:
        (source / name).symlink_to(ROOT / name)

    done(*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source), cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected()
    assert not (source / "build").exists(), "files of an earlier build would enter the next wheel"

    done(*GIT, "init", "-q", cwd=project)
    done(*GIT, "commit", "-q", "--allow-empty", "-m", "somebody's work", cwd=project)
    site = str(project / "env")
    done(*PIP, "install", "--no-index", "--no-deps", "--no-compile", "--target", site, str(wheel), cwd=project)
    smoke = ("debug=smoke", "sample.num_images=2", "sample.batch_size=2", "budget.num_steps=2")
    done(f"{site}/bin/cq", *smoke, cwd=project, path=site)
    records = project / "runs/records.jsonl"
    record = json.loads(records.read_text().splitlines()[-1])
    assert (record["commit"], record["clean_tree"], record["versions"]["cq"]) == ("", False, __version__)
    report = ("--all", "--no-figures", "--records", str(records), "--out", "out")
    assert f"cq {__version__}" in done(f"{site}/bin/cq-report", *report, cwd=project, path=site)
    assert {path.name for path in project.iterdir()} - {"outputs"} == {".git", "env", "runs", "out"}


@pytest.mark.slow
def test_the_source_distribution_holds_what_a_wheel_is_built_from(tmp_path: Path) -> None:
    for name in SOURCES:
        (tmp_path / name).symlink_to(ROOT / name)
    done(sys.executable, "-c", "import setuptools.build_meta as b; b.build_sdist('.')", cwd=tmp_path)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    beside = {name.removeprefix("cq/") if (ROOT / name.removeprefix("cq/")).exists() else name for name in expected()}
    assert {*SOURCES, *beside} <= held
