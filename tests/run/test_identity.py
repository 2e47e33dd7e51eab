"""Identity: what was committed is told by its name; a changed module and the content of a file of yours count."""

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from omegaconf import OmegaConf

from cq.laws.choices import component_node, components
from cq.run import identity
from cq.run.building import component_named
from cq.run.identity import beside, described, files_named, source_digest

CHANGED_MODULES = identity.changed_modules  # which every other test has without changes
SOURCES = {
    "__init__.py": "",
    "run/__init__.py": "",
    "run/pipeline.py": "from cq import loop\n",
    "loop.py": "",
    "run/preflight.py": "from cq import metric\n",
    "metric.py": "",
    "schedule/__init__.py": "",
    "schedule/plan.py": "from typing import TYPE_CHECKING\n\nfrom cq.schedule.bounds import least\n\n"
    "if TYPE_CHECKING:\n    from cq import loop\n\n\ndef late() -> None:\n    import cq.metric\n",
    "schedule/bounds.py": "least = 1\n",
}


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the place of ours, under no version control."""
    root = tmp_path / "tree/cq"
    for name, text in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(identity, "PACKAGE", root)
    for name in ("_committed", "_file_of", "_imports", "source_digest"):
        monkeypatch.setattr(identity, name, cache(getattr(identity, name).__wrapped__))
    monkeypatch.setattr(identity, "changed_modules", cache(CHANGED_MODULES.__wrapped__))
    return root


@pytest.fixture
def committed(package: Path) -> Path:
    """The same in a repository, committed."""
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(package.parent, *arguments)
    return package


def digests() -> dict[str, str | None]:
    """As a new process finds them."""
    for each in (identity._committed, identity.changed_modules, identity._file_of, identity._imports):
        each.cache_clear()
    names = ("cq.run.pipeline", "cq.loop", "cq.metric", "cq.run.preflight", "cq.schedule.plan", "cq.schedule.bounds")
    return {name: identity.source_digest.__wrapped__(name) for name in names}


def counted() -> set[str]:
    return {name for name, digest in digests().items() if digest is not None}


def test_committed_code_adds_nothing(committed: Path) -> None:
    assert counted() == set()


@pytest.mark.parametrize(
    ("edited", "who"),
    [
        ("loop.py", {"cq.run.pipeline", "cq.loop"}),  # what is imported for type checking alone decides nothing
        ("schedule/bounds.py", {"cq.schedule.plan", "cq.schedule.bounds"}),
        ("schedule/__init__.py", {"cq.schedule.plan", "cq.schedule.bounds"}),
        ("metric.py", {"cq.metric", "cq.schedule.plan"}),  # an import inside a function counts, one to refuse does not
    ],
)
def test_a_change_counts_for_whatever_imports_it(committed: Path, edited: str, who: set[str]) -> None:
    text = (committed / edited).read_text()
    (committed / edited).write_text(text + "# once\n")
    assert counted() == who
    first = digests()
    (committed / edited).write_text(text + "# twice\n")
    second = digests()
    assert all(first[name] != second[name] for name in who)
    git(committed.parent, "add", ".")
    assert digests() == second  # not committed yet
    (committed / edited).write_text(text)
    assert counted() == set()


def test_a_module_of_yours_counts_until_it_is_committed(committed: Path) -> None:
    (committed / "schedule/mine.py").write_text("from cq.schedule import plan\n")
    digests()
    assert identity.source_digest.__wrapped__("cq.schedule.mine") is not None
    assert counted() == set()
    git(committed.parent, "add", ".")
    git(committed.parent, "commit", "-qm", "mine")
    digests()
    assert identity.source_digest.__wrapped__("cq.schedule.mine") is None


def test_what_a_module_of_yours_imports_from_elsewhere_counts(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "own")
    (tmp_path / "own/ideas_of_mine").mkdir(parents=True)
    (tmp_path / "own/ideas_of_mine/__init__.py").write_text("")
    (tmp_path / "own/ideas_of_mine/first.py").write_text("from .second import value\n")
    second = tmp_path / "own/ideas_of_mine/second.py"
    (committed / "schedule/mine.py").write_text("import json\nimport pytest\nfrom ideas_of_mine import first\n")
    found = []
    for text in ("value = 1\n", "value = 2\n", "value = 1\n"):
        second.write_text(text)
        digests()
        found.append(identity.source_digest.__wrapped__("cq.schedule.mine"))
    assert found[0] == found[2] != found[1]


def test_a_committed_link_is_the_file_it_names(committed: Path) -> None:
    (committed / "zoo/one").mkdir(parents=True)
    (committed / "zoo/two").mkdir()
    weights, link = committed / "zoo/one/weights", committed / "zoo/two/weights"
    weights.write_text("first")
    (committed / "zoo/one/other").write_text("other")
    link.symlink_to("../one/weights")
    git(committed.parent, "add", ".")
    git(committed.parent, "commit", "-qm", "weights")
    digests()
    assert identity.changed(link) is None
    weights.write_text("second")
    assert identity.changed(link) == hashlib.sha256(b"second").hexdigest()
    weights.write_text("first")
    link.unlink()
    link.symlink_to("../one/other")  # as committed there, and not here
    assert identity.changed(link) == hashlib.sha256(b"other").hexdigest()


def test_outside_version_control_everything_counts(package: Path) -> None:
    assert counted() == {*digests()} - {identity.REFUSES_ONLY}


def test_an_installed_package_is_compared_with_what_its_wheel_says(package: Path) -> None:
    """Also inside the folder of a repository that has nothing to do with it."""

    def listed(path: Path) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
        return f"{path.relative_to(package.parent)},sha256={digest},{path.stat().st_size}\n"

    information = package.parent / "cq-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: cq\nVersion: 0.1\n")
    (information / "RECORD").write_text("".join(map(listed, sorted(package.rglob("*.py")))))
    git(package.parent, "init", "-q")
    assert counted() == set()
    (package / "loop.py").write_text("# changed\n")
    assert counted() == {"cq.run.pipeline", "cq.loop"}


def test_the_source_of_a_component_is_part_of_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "source_digest", lambda module: f"of {module}")
    assert described(Named(path="", mode="clean", others=()))["source"] == f"of {__name__}"
    found = beside({"schedule": {"_target_": "cq.schedule.dps.DPS"}})["sources"]
    assert found == {"cq.run.pipeline": "of cq.run.pipeline", "cq.schedule.dps": "of cq.schedule.dps"}


@dataclass(frozen=True, kw_only=True)
class Named:
    path: str
    mode: Literal["clean"]
    others: tuple[str, ...]
    name: str = "own"
    kind: ClassVar[str] = "."


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files, and with folders that are called like words of a configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("clean/a", "own/a", "folder/a", "folder/below/b", "folder/.cache/c", "file.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    return tmp_path


def named(path: str, *others: str) -> dict[str, str]:
    return files_named(Named, {"path": path, "mode": "clean", "others": others, "name": "own"})


@pytest.mark.parametrize(
    "text", ["", "nothing/here", "not\0a path", "x" * 5000, "zoo:nothing", "zoo:features", "/dev/zero"]
)
def test_what_names_no_file_of_yours_adds_nothing(elsewhere: Path, text: str) -> None:
    assert named(text) == {}


@pytest.mark.parametrize(("text", "file"), [("file.json", "file.json"), ("folder", "folder/below/b")])
def test_a_file_or_folder_is_what_it_holds(
    elsewhere: Path, text: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    first = named(text)
    assert named(f"~/{text}") == first
    assert first.keys() == {"path"}
    assert named(str(elsewhere / text)) == first  # wherever it lies
    (elsewhere / file).write_text("two")
    second = named(text)
    assert second != first
    (elsewhere / file).write_text("one")
    assert named(text) == first
    (elsewhere / "folder/.cache/c").write_text("a downloader's notes")
    assert named(text) == first


def test_a_renamed_or_new_file_of_a_folder_counts_and_so_does_each_of_several(elsewhere: Path) -> None:
    found = [named("folder"), named("", "folder", "file.json")]
    (elsewhere / "folder/a").rename(elsewhere / "folder/z")
    found += [named("folder"), named("", "folder", "file.json")]
    (elsewhere / "folder/new").write_text("")
    found += [named("folder"), named("", "folder", "file.json")]
    assert len({str(each) for each in found}) == 6


def test_every_file_that_a_bundled_choice_names_counts(elsewhere: Path, of_yours: Callable[[str], str]) -> None:
    """Prompts, networks, references and judges: whatever names a file is found by its content."""
    met = set()
    for group, name in components():
        node: Any = OmegaConf.to_container(component_node(group, name))
        for field, value in node.items():
            names = isinstance(value, str) and value.startswith(("zoo:", "hub:", "${paths.data}"))
            if not names and (group, field) != ("schedule", "path"):
                continue
            if field == "weights" and group == "model":
                continue  # which have a digest of their own
            kind = component_named(node["_target_"], name)
            before = files_named(kind, {**node, field: of_yours("one")})
            after = files_named(kind, {**node, field: of_yours("two")})
            assert field in before.keys() & after.keys(), (group, name, field)
            assert before[field] != after[field]
            met.add(field)
    assert met >= {"prompts", "features", "reference", "weights", "folder", "path"}


@pytest.fixture
def of_yours(elsewhere: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (elsewhere / "folder/a").write_text(text)
        return "folder"

    return write


def test_looking_costs_no_torch() -> None:
    script = (
        "import sys; from cq.run import identity; identity.changed_modules(); "
        "identity.source_digest('cq.run.pipeline'); "
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_bundled_components_are_described_as_they_were() -> None:
    from cq.schedule.uniform import Uniform

    assert described(Uniform(interval=5)) == {"class": "cq.schedule.uniform.Uniform", "interval": 5}
    assert source_digest("cq.schedule.uniform") is None


def test_bytecode_in_a_folder_that_is_named_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("x = 1\n")
    before = identity._content(str(tmp_path))
    assert before is not None
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/part.cpython-311.pyc").write_bytes(b"compiled")
    assert identity._content(str(tmp_path)) == before
