"""A record names the commit of this code or none: never that of a repository which the code only lies in."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from cq import __version__
from cq.run import identity, ledger, origin
from cq.run.config import CONF, PAPER
from cq.run.origin import Source, git, shipped, wheel_files

ROOT = Path(__file__).parents[2]


def run_git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def tree(root: Path) -> Path:
    """A package with its configurations."""
    for name in ("cq/__init__.py", "cq/module.py", "conf/config.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def repository(root: Path, *names: str) -> Path:
    """A repository that keeps what is named, committed."""
    root.mkdir(parents=True, exist_ok=True)
    run_git(root, "init", "-q")
    (root / "notes.md").write_text("somebody's work")
    run_git(root, "add", "notes.md", *names)
    run_git(root, "commit", "-qm", "first")
    return root


def installed(root: Path) -> Path:
    """The package as pip lays a wheel down."""
    (root / "cq-1.dist-info").mkdir(parents=True)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")
    (root / "cq-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: cq\nVersion: 1\n")
    (root / "cq-1.dist-info/RECORD").write_text(f"cq/__init__.py,sha256={digest},0\ncq/module.py,sha256={digest},0\n")
    return tree(root)


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of this project, in our place."""
    monkeypatch.setattr(origin, "PACKAGE", tmp_path / "ours/cq")
    return repository(tree(tmp_path / "ours"), "cq", "conf")


def test_a_checkout_is_its_commit(ours: Path) -> None:
    assert Source.now() == Source(git(ours, "rev-parse", "HEAD"), True)
    assert len(Source.now().commit) == 40


@pytest.mark.parametrize("kept", [False, True], ids=["not kept", "kept"])
@pytest.mark.parametrize("lay", [tree, installed], ids=["copy", "wheel"])
def test_in_a_foreign_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lay: object, kept: bool) -> None:
    """A copy that the repository keeps is of its commit; a wheel has a version whoever keeps it."""
    place = (installed if lay is installed else tree)(tmp_path / "project/env")
    project = repository(tmp_path / "project", *(["env"] if kept else []))
    monkeypatch.setattr(origin, "PACKAGE", place / "cq")
    copied = kept and lay is tree
    assert Source.now() == (Source(git(project, "rev-parse", "HEAD"), True) if copied else Source("", False))
    assert bool(wheel_files(place / "cq")) == (lay is installed)


def test_a_package_that_is_only_staged_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = repository(tmp_path / "project")
    run_git(tree(project), "add", "cq", "conf")
    monkeypatch.setattr(origin, "PACKAGE", project / "cq")
    assert Source.now() == Source("", False)


def test_the_repository_that_a_hook_runs_for_is_not_asked(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Source.now()
    other = repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert Source.now() == expected


@pytest.mark.parametrize("change", ["cq/module.py", "cq/new.py", "conf/new.yaml", "cq/data/ignored.py"])
def test_a_change_is_seen_whatever_git_is_set_to_show(ours: Path, change: str) -> None:
    (ours / ".git/info/exclude").write_text("data/\n__pycache__/\n")
    run_git(ours, "config", "status.showUntrackedFiles", "no")
    (ours / "cq/__pycache__").mkdir()
    (ours / "cq/__pycache__/module.pyc").write_text("")
    assert Source.now().clean
    (ours / change).parent.mkdir(exist_ok=True)
    (ours / change).write_text("changed = 1")
    assert not Source.now().clean


def test_without_git_there_is_no_commit(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert Source.now() == Source("", False)


def test_versions_say_where_the_code_is_not_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger._versions()["cq"] == __version__
    monkeypatch.setattr(identity, "changed_modules", lambda: {Path("cq/x.py"): "digest"})
    assert ledger._versions()["cq"] == f"{__version__}+local"
    monkeypatch.setattr(ledger, "PACKAGES", ("no-such-package",))
    assert ledger._versions()["no-such-package"] == ""


def test_what_is_shipped_lies_beside_the_package_or_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (CONF, PAPER) == (ROOT / "conf", ROOT / "results/paper.csv")
    monkeypatch.setattr(origin, "PACKAGE", tmp_path / "site/cq")
    shutil.copytree(ROOT / "conf/debug", tmp_path / "site/cq/conf/debug")
    assert shipped("conf") == tmp_path / "site/cq/conf"
