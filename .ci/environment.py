"""Make the virtual environment whole, whatever a killed set-up left: `python3 .ci/environment.py .venv python3`.

Needs nothing but Python. One set-up works at a time; its pip holds the lock, too, so that one whose make was killed is
waited for. What is found is gone on with where it is sound, and made anew where it is not: of another folder, of a
Python that is gone or too old, without pip, with packages that pip did not finish. The stamp comes last.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOUND = "import sys, pip; print(sys.version_info >= (3, 10))"
WORKS = "import cq.stages"  # with torch and diffusers, from the environment and not from the working folder
PARTS = {"bin", "include", "lib", "lib64", "share", "etc", ".gitignore", ".installed.partial"}  # without pyvenv.cfg


def main(venv: Path, python: list[str]) -> None:
    """Leave `venv`, a path without links, with a stamp, or exit with one sentence. python: what makes one."""
    if is_done(venv):
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(venv.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_done(venv):  # by another command, while this one waited
            return
        stamp(venv).unlink(missing_ok=True)
        if is_sound(venv) and install(venv, lock.fileno()) == "":
            return
        start_over(venv, python, lock.fileno())
        fault = install(venv, lock.fileno())
        if fault:
            sys.exit(
                f"{venv}: what was installed does not work ({fault}). Mend the cause; the same command then goes on."
            )


def stamp(venv: Path) -> Path:
    return venv / ".installed"


def fingerprint(venv: Path) -> str:
    """What the environment was made for: its place, and what the project needs."""
    needs = b"".join(path.read_bytes() for path in (ROOT / "pyproject.toml", ROOT / "setup.py") if path.exists())
    return f"{venv}\n{ROOT}\n{hashlib.sha256(needs).hexdigest()}\n"


def is_done(venv: Path) -> bool:
    made_for = stamp(venv).read_bytes() if stamp(venv).is_file() else b""
    return made_for == fingerprint(venv).encode() and says(venv, SOUND) == "True"


def is_sound(venv: Path) -> bool:
    """Whether pip can go on in it: it runs, its scripts name this folder, and every package is there as recorded."""
    pip = venv / "bin/pip"
    if says(venv, SOUND) != "True" or not pip.is_file() or f"{venv}/bin/".encode() not in pip.read_bytes():
        return False
    for site in venv.glob("lib/python*/site-packages"):
        if any(site.glob("~*")):  # where pip puts aside what it is replacing
            return False
        for package in map(PathDistribution, site.glob("*.dist-info")):
            files = package.files  # pip writes this list after the files; without hash: what need not be there
            if not files or any(file.hash and not Path(file.locate()).exists() for file in files):
                return False
    return True


def install(venv: Path, lock: int) -> str:
    """Install what the project needs and try it; "" and the stamp, or why it does not work. Exits where pip fails."""
    # Bytecode is written by the first import of a module: most of 300 MB of sources are never imported.
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
    command = [str(venv / "bin/python"), "-m", "pip", "install", *options, "-e", ".[dev]"]
    if subprocess.run(command, cwd=ROOT, pass_fds=(lock,)).returncode:  # no network, no room: what is there stays
        sys.exit(
            f"{venv}: pip could not install what the project needs (its reason is above). The same command goes on."
        )
    tried = subprocess.run([str(venv / "bin/python"), "-I", "-c", WORKS], capture_output=True, text=True)
    if tried.returncode or not is_sound(venv):
        return (tried.stderr.strip().splitlines() or ["a package is not whole"])[-1]
    partial = stamp(venv).with_suffix(".partial")
    partial.write_bytes(fingerprint(venv).encode())
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
