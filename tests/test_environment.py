"""The set-up of the environment works after a kill at any moment, with a stand-in for pip: no network, seconds."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Damage = Callable[[Path], None]
ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "diffusers", "cq")

# Installs as pip does, a step at a time: files, then what lists them. The process group is killed at step KILL_AT.
PIP = """
import os, signal, sys, time
from pathlib import Path

site = Path(__file__).parents[1]
done = 0

def step():
    global done
    if str(done) == os.environ.get("KILL_AT"):
        os.killpg(0, signal.SIGKILL)
    done += 1
    time.sleep(float(os.environ.get("SLOW", "0")))

def write(name, text):
    path = site / name
    path.parent.mkdir(parents=True, exist_ok=True)
    step()
    path.write_text(text[:len(text) // 2])
    step()
    path.write_text(text)

def install(name, files, scripts=()):
    info = f"{name}-1.0.dist-info"
    if (site / info).exists():  # already satisfied, whatever it holds
        return
    for file, text in files.items():
        write(file, text)
    for script, text in scripts:
        write(script, text)
    write(f"{info}/METADATA", f"Name: {name}\\nVersion: 1.0\\n")
    rows = [f"{file},sha256=x,1" for file in files] + [f"{info}/METADATA,sha256=x,1", f"{info}/RECORD,,"]
    write(f"{info}/RECORD", "\\n".join(rows) + "\\n")
    step()

if __name__ == "__main__":
    with open(os.environ["CALLS"], "a") as calls:
        calls.write("pip\\n")
    if "FAIL" in os.environ:
        sys.exit(1)
    for name in PACKAGES:
        files = {f"{name}/__init__.py": f"whole = {name!r}\\n", f"{name}/last.py": "whole = True\\n"}
        if name == "cq":
            imports = "".join(f"import {other}.last; {other}.whole\\n" for other in PACKAGES)
            files["cq/run/stages.py"] = imports
        install(name, files)
    if "SAY_END" in os.environ:
        with open(os.environ["CALLS"], "a") as calls:
            calls.write("end\\n")
"""

VENV = """
import os, runpy, subprocess, sys
from pathlib import Path

folder = Path(sys.argv[1])
subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
site = next(folder.glob("lib/python*/site-packages"))
(site / "pip").mkdir()
pip = Path(os.environ["PIP"]).read_text()
(site / "pip/__main__.py").write_text(pip)
(site / "pip/__init__.py").write_text("")
(folder / "bin/pip").write_text(f"#!{folder}/bin/python\\n")
with open(os.environ["CALLS"], "a") as calls:
    calls.write("venv\\n")
if os.environ.get("KILL_AT") == "venv":
    os.killpg(0, 9)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/environment.py", root / ".ci")
    shutil.copy(ROOT / "Makefile", root)
    (root / "pyproject.toml").write_text("")
    (tmp_path / "pip.py").write_text(PIP.replace("PACKAGES", repr(PACKAGES)))
    (tmp_path / "venv.py").write_text(VENV)
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ] && [ "$2" = venv ]; then exec {sys.executable} {tmp_path}/venv.py "$3"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    return root


def start(root: Path, *command: str, **environment: str) -> "subprocess.Popen[str]":
    """`make environment`, or another command, in a process group of its own."""
    names = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    names |= {"PIP": str(root.parent / "pip.py"), "CALLS": str(root.parent / "calls"), **environment}
    return subprocess.Popen(
        command or ["make", "environment", f"PYTHON={root.parent / 'python'}"], cwd=root, text=True, env=names,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def make(root: Path, **environment: str) -> tuple[int, str]:
    process = start(root, **environment)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def calls(root: Path) -> list[str]:
    path = root.parent / "calls"
    return path.read_text().split() if path.exists() else []


def works(root: Path) -> bool:
    done = subprocess.run([root / ".venv/bin/python", "-I", "-c", "import cq.run.stages, torch.last, diffusers.last"])
    return done.returncode == 0 and (root / ".venv/.installed").is_file()


@pytest.mark.parametrize("moment", ["venv", *map(str, range(0, 29, 4))])
def test_the_set_up_works_after_a_kill_at_any_moment(project: Path, moment: str) -> None:
    code, _ = make(project, KILL_AT=moment)
    assert code == -signal.SIGKILL
    assert not (project / ".venv/.installed").exists()
    code, said = make(project)
    assert (code, said) == (0, "")
    assert works(project)


def test_ten_kills_one_after_another(project: Path) -> None:
    for moment in ("venv", 0, 3, 6, 1, 7, 8, 2, 5, 4):
        assert make(project, KILL_AT=str(moment))[0] == -signal.SIGKILL
    assert make(project) == (0, "")
    assert works(project)
    before = calls(project)
    assert make(project) == (0, "")
    assert calls(project) == before  # done once


def test_what_pip_took_for_finished_is_not_kept(project: Path) -> None:
    """A package may be listed while its scripts or its last file are not there; pip would not install it again."""
    make(project, KILL_AT="11")
    (project / ".venv/left-over").write_text("")
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "venv", "pip"]
    assert not (project / ".venv/left-over").exists()


def test_two_commands_set_up_once(project: Path) -> None:
    both = [start(project, SLOW="0.02") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [errors for _, errors in said] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert calls(project) == ["venv", "pip"]
    assert works(project)


def test_a_pip_whose_make_was_killed_is_waited_for(project: Path) -> None:
    first = start(project, SLOW="0.05")
    while "pip" not in calls(project):
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)  # make alone: what it started goes on
    assert make(project) == (0, "")
    first.communicate(timeout=60)
    assert calls(project) == ["venv", "pip"]
    assert works(project)


def test_a_pip_that_outlives_its_set_up_is_waited_for(project: Path) -> None:
    """It would write into the environment that is made anew."""
    set_up = (sys.executable, ".ci/environment.py", ".venv", str(project.parent / "python"))
    process = start(project, *set_up, SLOW="0.05", SAY_END="1")
    while "pip" not in calls(project):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # alone: its pip goes on
    assert make(project) == (0, "")
    process.communicate(timeout=60)
    assert calls(project) == ["venv", "pip", "end", "venv", "pip"]
    assert works(project)


def without_pip(root: Path) -> None:
    shutil.rmtree(next((root / ".venv").glob("lib/python*/site-packages")) / "pip")


def without_python(root: Path) -> None:
    (root / ".venv/bin/python").unlink()
    (root / ".venv/bin/python").symlink_to("/nowhere/python")


@pytest.mark.parametrize("damage", [without_pip, without_python])
def test_a_python_that_went_away_is_noticed(project: Path, damage: Damage) -> None:
    assert make(project) == (0, "")
    damage(project)
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "venv", "pip"]
    assert works(project)


def test_a_moved_project_makes_its_environment_anew(project: Path) -> None:
    assert make(project) == (0, "")
    moved = project.rename(project.parent / "moved")
    assert make(moved) == (0, "")
    assert calls(moved) == ["venv", "pip", "venv", "pip"]
    assert f"{moved}/.venv/bin/" in (moved / ".venv/bin/pip").read_text()


def test_other_needs_are_installed_into_the_same_environment(project: Path) -> None:
    assert make(project) == (0, "")
    (project / "pyproject.toml").write_text("more")
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "pip"]


def test_a_kill_while_other_needs_are_installed_starts_over(project: Path) -> None:
    assert make(project) == (0, "")
    (project / "pyproject.toml").write_text("more")
    shutil.rmtree(next((project / ".venv").glob("lib/python*/site-packages/cq-*")))
    assert make(project, KILL_AT="1")[0] == -signal.SIGKILL
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "pip", "venv", "pip"]
    assert works(project)


def test_a_link_and_a_broken_stamp_do_no_harm(project: Path) -> None:
    (project.parent / "disk").mkdir()
    (project / ".venv").symlink_to(project.parent / "disk")
    assert make(project) == (0, "")
    (project / ".venv/.installed").write_bytes(b"\xff\xfe")
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "pip"]
    assert (project / ".venv").is_symlink()
    assert works(project)


def test_what_works_is_kept_where_pip_fails(project: Path) -> None:
    """Other needs and no network: the environment stays, and the next command tries again."""
    assert make(project) == (0, "")
    (project / "pyproject.toml").write_text("more")
    code, said = make(project, FAIL="1")
    assert code != 0
    assert "pip could not install" in said
    assert "Traceback" not in said
    assert works(project)
    assert make(project) == (0, "")
    assert calls(project) == ["venv", "pip", "pip", "pip"]


def test_another_python_that_is_named_makes_it_anew(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(project) == (0, "")
    spec = importlib.util.spec_from_file_location("environment", project / ".ci/environment.py")
    assert spec is not None
    assert spec.loader is not None
    environment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(environment)
    named, venv = [str(project.parent / "python")], project / ".venv"
    assert environment.is_done(venv, named)
    monkeypatch.setattr(sys, "version", "3.99")
    assert not environment.is_finished(venv, named)
    assert environment.is_finished(venv, ["python3"])  # nobody asked for another one


def test_a_python_too_old_is_said(project: Path) -> None:
    (project.parent / "python").write_text("#!/bin/sh\necho SyntaxError >&2\nexit 1\n")
    code, said = make(project)
    assert code != 0
    assert "SyntaxError" not in said
    assert calls(project) == []


def test_a_folder_of_something_else_stays(project: Path) -> None:
    (project / ".venv").mkdir()
    (project / ".venv/thesis.tex").write_text("years of work")
    code, said = make(project)
    assert code != 0
    assert "folder of something else" in said
    assert "Traceback" not in said
    assert [path.name for path in (project / ".venv").iterdir()] == ["thesis.tex"]
