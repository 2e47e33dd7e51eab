"""Make the virtual environment, once, whatever a killed set-up left: `python3 .ci/environment.py .venv python3`.

Needs nothing but Python. One set-up works at a time; its pip holds the lock, too, so that one whose make was killed is
waited for. The stamp comes last: what has none is half done and made anew, and so is what was moved, has lost its
Python, or is of another one than PYTHON=... names. Where only the needs changed, what is new is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
RUNS = "import sys, pip; print(sys.version)"
WORKS = "import cq.run.stages"  # with torch and diffusers, from the environment and not from the working folder
PARTS = {"bin", "include", "lib", "lib64", "share", "etc", ".gitignore"}  # before there is a pyvenv.cfg
UNNAMED = ["python3"]  # what the Makefile takes where PYTHON is not given


def main(venv: Path, python: list[str]) -> None:
    """Leave `venv`, a path without links, with a stamp, or exit with one sentence. python: what makes one."""
    if is_done(venv, python):
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(venv.name + ".lock").open("a") as lock:
        wait(lock, venv)
        if is_done(venv, python):  # by another command, while this one waited
            return
        before = stamp(venv).read_bytes() if is_finished(venv, python) else None
        stamp(venv).unlink(missing_ok=True)
        if before is None:
            start_over(venv, python, lock.fileno())
        fault = install(venv, lock.fileno())
        if fault and before is not None:  # without a network, say: what was there still is
            stamp(venv).write_bytes(before)
        if fault:
            sys.exit(f"{venv}: {fault}. Mend the cause, or remove the folder; then give the same command again.")


def wait(lock: IO[str], venv: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{venv}: is being set up by another command. Waiting for it.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def stamp(venv: Path) -> Path:
    return venv / ".installed"


def fingerprint(venv: Path) -> bytes:
    """What the environment was made for: its place, and what the project needs."""
    needs = b"".join(path.read_bytes() for path in (ROOT / "pyproject.toml", ROOT / "setup.py") if path.exists())
    return f"{venv}\n{ROOT}\n{hashlib.sha256(needs).hexdigest()}\n".encode()


def is_done(venv: Path, python: list[str]) -> bool:
    return is_finished(venv, python) and stamp(venv).read_bytes() == fingerprint(venv)


def is_finished(venv: Path, python: list[str]) -> bool:
    """Whether a set-up came to its end, in this place, with a Python that is still there and the one asked for."""
    if not stamp(venv).is_file() or not (venv / "bin/pip").is_file() or not (version := says(venv, RUNS)):
        return False
    return f"{venv}/bin/".encode() in (venv / "bin/pip").read_bytes() and (
        python == UNNAMED or version == sys.version.strip()
    )


def install(venv: Path, lock: int) -> str:
    """Install what the project needs, try it and leave the stamp; "", or what is at fault."""
    print(f"{venv}: is being set up. This takes minutes and some GB, once.", flush=True)
    # Bytecode is written by the first import of a module: most of 300 MB of sources are never imported.
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
    command = [str(venv / "bin/python"), "-m", "pip", "install", *options, "-e", ".[dev]"]
    if subprocess.run(command, cwd=ROOT, pass_fds=(lock,)).returncode:
        return "pip could not install what the project needs (its reason is above)"
    tried = subprocess.run([str(venv / "bin/python"), "-I", "-c", WORKS], capture_output=True, text=True)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["it says no more"])[-1]
        return f"what was installed does not work ({reason})"
    partial = stamp(venv).with_suffix(".partial")
    partial.write_bytes(fingerprint(venv))
    partial.replace(stamp(venv))
    return ""


def start_over(venv: Path, python: list[str], lock: int) -> None:
    """An empty environment with pip in the place of what is there, which must be one, or what is left of one."""
    if sys.version_info < (3, 10):  # noqa: UP036  # what is started may be any Python
        sys.exit("Python 3.10 or newer is needed; name one with PYTHON=...")
    found = sorted(venv.iterdir(), key=lambda path: path.name == "pyvenv.cfg") if venv.is_dir() else []
    names = {path.name for path in found}
    if "pyvenv.cfg" not in names and not names <= PARTS:
        sys.exit(f"VENV={venv}: is a folder of something else, which stays as it is. Name another one with VENV=...")
    if found:
        print(f"{venv}: was not finished, was moved or has lost its Python. It is made anew.", flush=True)
    for path in found:  # what tells that it is an environment goes last
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if subprocess.run([*python, "-m", "venv", str(venv)], pass_fds=(lock,)).returncode:
        sys.exit(f"{venv}: Python could not make this environment (its reason is above). Mend the cause, or PYTHON=...")


def says(venv: Path, program: str) -> str:
    try:
        done = subprocess.run([str(venv / "bin/python"), "-I", "-c", program], capture_output=True, text=True)
    except OSError:  # none, or one of another machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).resolve(), sys.argv[2:])
    except OSError as error:
        sys.exit(f"{error.filename or sys.argv[1]}: {error.strerror or error}. Mend it; the same command then goes on.")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")
