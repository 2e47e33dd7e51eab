"""What the repository keeps: no file that nothing shows, none twice, and not more than a clone should fetch."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from cq.cli.report import committed
from cq.report.build import build_tables
from cq.report.gallery import strips_shown
from cq.report.paper import read_paper
from cq.run.config import PAPER
from cq.run.record_file import read

ROOT = Path(__file__).parents[1]
LIMIT = 64 * 2**20  # bytes of everything, which travels to other machines whole
LARGE = 100_000  # bytes; what is kept once
FIGURES, STRIPS = ROOT / "results/figures", ROOT / "results/thumbnails"


@pytest.fixture(name="tracked", scope="module")
def _tracked() -> dict[Path, str]:
    """Tracked files that are there, to the digests of their content; links left out."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-sz"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a git checkout")
    lines = (line.split("\t", 1) for line in listed.stdout.split("\0") if line)
    files = {ROOT / name: about.split()[1] for about, name in lines}
    return {path: digest for path, digest in files.items() if path.is_file() and not path.is_symlink()}


def test_the_tracked_tree_stays_small(tracked: dict[Path, str]) -> None:
    assert sum(path.stat().st_size for path in tracked) < LIMIT


def test_no_large_file_is_kept_twice(tracked: dict[Path, str]) -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path, digest in tracked.items():
        if path.stat().st_size > LARGE:
            found[digest].append(str(path.relative_to(ROOT)))
    assert [paths for paths in found.values() if len(paths) > 1] == [], "keep one, and links to it"


def test_every_figure_is_shown_by_a_tracked_page(tracked: dict[Path, str]) -> None:
    pages = [path for path in tracked if path.suffix in (".md", ".ipynb")]
    links = {
        (page.parent / name).resolve() for page in pages for name in re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    }
    figures = {path for path in tracked if path.parent == FIGURES and path.suffix != ".md"}
    assert figures
    assert figures - links == set(), "nothing shows these; cq-report --all writes what its pages show"
    assert {link for link in links if link.parent == FIGURES} - set(tracked) == set(), "shown, and not there"


def test_strips_of_images_are_those_that_a_figure_shows(tracked: dict[Path, str]) -> None:
    records = [record for path in committed(ROOT / "results") for record in read(path)]
    paper, shown = read_paper(PAPER), set[Path]()
    for name in {record.table for record in records}:
        for table in build_tables(name, records, paper):
            shown |= set(strips_shown(table, ROOT / "results"))
    assert {path for path in tracked if path.parent == STRIPS} == shown, "run: cq-report --all --prune"
