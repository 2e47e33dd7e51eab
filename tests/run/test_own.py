"""Other people's code: what is allowed is found, built and counted; what is not is refused with a remedy."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException

import cq
from cq.laws.choices import _container
from cq.run import identity, own
from cq.run.building import build, component_named
from cq.run.compose import component, composed, composing
from cq.run.explain import explain
from cq.run.tables import read_table, table_names

IDEAS = Path(__file__).parents[2] / "notebooks/own_package"
CACHES = (identity.source_digest, identity._file_of, identity._imports, own._owned, _container)


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from undone(monkeypatch)


def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test allows, imports and edits for itself."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv(own.VARIABLE, "")
    modules = set(sys.modules)
    _forget()
    yield
    _forget()
    for name in set(sys.modules) - modules:
        if name.startswith("my_ideas"):
            del sys.modules[name]


def _forget() -> None:
    """As a new process."""
    for each in CACHES:
        each.cache_clear()
    sys.path_importer_cache.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(IDEAS, tmp_path / "ideas", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As pip would have installed it: the package, and beside it what says its entry point."""
    site = tmp_path / "env/site-packages"
    shutil.copytree(folder / "my_ideas", site / "my_ideas")
    (site / "my_ideas-0.1.dist-info").mkdir()
    (site / "my_ideas-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-ideas\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(site)
    _forget()
    return site


def declare(site: Path, value: str = "my_ideas") -> None:
    (site / "my_ideas-0.1.dist-info/entry_points.txt").write_text(f"[cq.components]\nideas = {value}\n")
    _forget()


def geometric() -> object:
    return component("schedule=geometric", "budget.cache_interval=10")


def test_a_choice_of_nobody_allowed_is_refused_with_a_remedy() -> None:
    with composing(), pytest.raises(MissingConfigException) as refusal:
        composed(["schedule=geometric"])
    assert "cq.allow=PACKAGE" in explain(refusal.value)
    with pytest.raises(ValueError, match=r"schedule\._target_='my_ideas\.planner\.Geometric': .* cq\.allow=my_ideas"):
        build({"_target_": "my_ideas.planner.Geometric", "interval": 5, "ratio": 1.0}, "schedule")


def test_a_folder_is_allowed_on_a_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert own.allowing(["-m", "cq.allow=[./ideas]", "seed=1"]) == ["-m", "seed=1"]
    assert type(geometric()).__module__ == "my_ideas.planner"
    assert own.said() == ("cq.allow=./ideas",)
    assert os.environ[own.VARIABLE] == str(folder)  # for processes that start elsewhere
    assert read_table("ideas").rows["corrected"]["row"]["label"].startswith("growing groups")
    assert "ideas" in table_names()
    assert own.allowing(["cq.allow=ideas/my_ideas/"]) == []  # a package, allowed by its folder
    assert own.said() == ("cq.allow=[./ideas,./ideas/my_ideas]",)


def test_an_installed_package_says_so_itself_or_is_allowed(installed: Path) -> None:
    with pytest.raises(ValueError, match=r"cq\.allow=my_ideas"):
        component_named("my_ideas.planner.Geometric", "schedule")
    cq.allow("my_ideas")
    assert type(geometric()).__module__ == "my_ideas.planner"
    os.environ[own.VARIABLE] = ""
    declare(installed)
    assert type(geometric()).__module__ == "my_ideas.planner"
    assert own.said() == ()


def test_a_package_that_is_half_gone_stops_nobody(installed: Path, caplog: pytest.LogCaptureFixture) -> None:
    declare(installed, "my_lost_ideas")
    assert own.owned() == ()
    assert "my_lost_ideas" in caplog.text


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("my_package", r"there is no package 'my_package' here\. Install it, or name its folder: \./my_package"),
        ("./nowhere", r"nowhere: there is no such folder\. Name one"),
        ("cq.schedule", r"there is no package 'cq\.schedule' here"),
    ],
)
def test_what_is_not_there_is_refused(word: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        own.allow(word)
    assert own.said() == ()


def test_a_choice_that_has_the_name_of_another_is_refused(folder: Path) -> None:
    (folder / "my_ideas/conf/schedule/geometric.yaml").rename(folder / "my_ideas/conf/schedule/dps.yaml")
    with pytest.raises(ValueError, match=r"schedule/dps\.yaml: .* has a choice of that name, too\. Rename"):
        own.allow(str(folder))


def test_a_module_that_another_one_hides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/textwrap.py").write_text("")
    own.allow(str(tmp_path / "mine"))
    with pytest.raises(ValueError, match=r"textwrap\.py is another module of that name\. Rename the one in .*mine"):
        component_named("textwrap.TextWrapper", "schedule")


def digests() -> dict[str, str | None]:
    _forget()
    return {name: identity.source_digest(f"my_ideas.{name}") for name in ("planner", "corrector", "metric")}


@pytest.mark.parametrize("how", ["folder", "installed"])
def test_its_source_and_what_it_imports_of_its_package_count(how: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(how)
    own.allow(str(root) if how == "folder" else "my_ideas")
    before = digests()
    assert None not in before.values()
    assert len(set(before.values())) == 3
    for edited, who in (("groups", {"planner"}), ("metric", {"metric"}), ("corrector", {"corrector"})):
        path = root / f"my_ideas/{edited}.py"
        text = path.read_text()
        path.write_text(text + "# edited\n")
        after = digests()
        assert {name for name in before if before[name] != after[name]} == who
        path.write_text(text)
    assert digests() == before


def test_an_installed_package_that_nobody_allowed_adds_nothing(installed: Path) -> None:
    assert set(digests().values()) == {None}
    assert identity.source_digest("cq.schedule.dps") is None
