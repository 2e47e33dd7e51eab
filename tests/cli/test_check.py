"""`cq-check` holds a package to the laws: one line each, a remedy for what is broken, and the exit status."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cq.cli import check
from tests.run.test_own import IDEAS, undone

BREAK = {  # a file, and what is changed in it: what breaks, and the remedy that is told
    "planner.py": (
        "interval=self.interval", "interval=None",
        ("schedule=geometric: no more refreshes than the interval allows", "Say the one that was asked"),
    ),
    "corrector.py": (
        "self.share * (", "-self.share * (",
        ("correct=part_of_offset: a fit is better than none on its own data", "Look for a sign"),
    ),
    "metric.py": (
        'better="down"', 'better="up"',
        ("metric=worst_pixel: what compares with full precision finds spoilt images worse", "Turn `better`"),
    ),
    "conf/metric/worst_pixel.yaml": (
        "levels: 255.0", "", ("metric=worst_pixel: its yaml lists every field", "lacks levels"),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from undone(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(IDEAS, tmp_path / "ideas", ignore=shutil.ignore_patterns("__pycache__"))


def test_a_good_package_keeps_every_law(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_ideas/unfinished.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Half:\n    depth: int = 1\n\n"
        "    def weights(self, call, refreshes):\n        return (1.0,)\n"
    )
    (folder / "script.py").write_text("raise SystemExit('a script was run')\n")
    assert check.main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("19 laws hold, 0 are broken")
    (left,) = [line for line in lines if "a yaml names it" in line]
    assert "write predict/NAME.yaml with _target_: my_ideas.unfinished.Half" in left


@pytest.mark.parametrize("file", BREAK)
def test_a_broken_law_is_told_with_a_remedy(file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, (law, remedy) = BREAK[file]
    path = folder / "my_ideas" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    for other in {"schedule", "correct", "metric"} - {law.partition("=")[0]}:
        shutil.rmtree(folder / "my_ideas/conf" / other)
    assert check.main([str(folder)]) == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken")]
    assert any(law in line and remedy in line for line in broken), broken


def test_what_holds_no_component_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(tmp_path)]) == 2
    assert "holds no component. Write yaml in conf/GROUP/" in capsys.readouterr().err
    assert check.main(["my_lost_package"]) == 2
    assert check.main([]) == 2
    assert check.main(["--help"]) == 0
