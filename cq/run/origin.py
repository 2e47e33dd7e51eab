"""Where the files lie that the code needs, and which code it is: a commit of a checkout, or a version in a wheel."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SOURCES = ("cq", "conf")  # what decides a number; tests and documents may differ from the commit


def shipped(name: str) -> Path:
    """A file or folder of the repository that a wheel holds inside the package, as `conf` or `results/paper.csv`."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


@dataclass(frozen=True)
class Source:
    """The commit of the code that runs, and whether nothing was changed since.

    A wheel has no commit, and neither has a copy in a repository that does not keep it: an empty one, never clean.
    """

    commit: str
    clean: bool

    @staticmethod
    def now() -> "Source":
        """Ask git; a new file that is not committed yet counts as a change, and so does a source that git ignores."""
        ours = not wheel_files(PACKAGE) and git(PACKAGE, "ls-tree", "HEAD", "--", "__init__.py")
        commit = git(PACKAGE, "rev-parse", "HEAD") if ours else ""
        if not commit:
            return Source("", False)
        changes = git(PACKAGE.parent, "status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
        ignored = ("ls-files", "--others", "--ignored", "--exclude-standard", "--", "cq/*.py", "conf/*.yaml")
        return Source(commit, not changes and not git(PACKAGE.parent, *ignored))


def wheel_files(package: Path) -> Mapping[str, str]:
    """Path below the package to its hash in the list of the wheel that it was installed from; {} where it was not."""
    for installed in distributions(name=package.name, path=[str(package.parent)]):
        listed = {str(file): file.hash.value for file in installed.files or () if file.hash is not None}
        if f"{package.name}/__init__.py" in listed:
            return {os.path.relpath(name, package.name): value for name, value in listed.items()}
    return {}


def git(folder: Path, *arguments: str) -> str:
    """What git says of a folder, whatever repository the environment is set to; "" where it says nothing."""
    set_to = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")
    environment = {key: value for key, value in os.environ.items() if key not in set_to}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
