"""A table fits the terminal, whatever its width, and says all that it says on paper."""

import os
from pathlib import Path

import pytest

from cq.report.build import build_table
from cq.report.paper import read_paper
from cq.report.terminal import WIDTH, folded, table_text, width_here, written
from cq.run.config import PAPER
from tests.report.synthetic import ablation

ROWS = [
    ["configuration", "steps", "PSNR vs full precision, dB (up)", "status", "s/image (measured)"],
    ["cached and quantized, plainly combined, N=20", "100", "31.16 ± 0.24", "ok", "-"],
    ["full precision", "100", "-", "failed: of memory, as told", "-"],
]


@pytest.mark.parametrize("width", [40, 60, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(width: int) -> None:
    lines = folded(ROWS, width)
    assert max(map(len, lines)) <= width
    told = " ".join(" ".join(lines).split())
    for word in ("configuration", "plainly", "31.16 ± 0.24", "failed: of", "told", "N=20"):
        assert word in told
    assert "In every row: steps 100." in told
    assert "In no row: s/image (measured)." in told


def test_a_wide_table_folds_into_blocks_that_repeat_the_names() -> None:
    whole, narrow = (folded(ROWS, width) for width in (120, 40))
    assert sum(line.startswith("full precision") for line in whole) == 1
    assert sum(line.startswith("full") for line in narrow) == 2
    assert [line for line in whole[:4] if line] == whole[:4]
    rule = next(line for line in whole if line.startswith("---"))
    assert whole[whole.index(rule) - 1].startswith("configuration")


def test_one_row_is_told_in_columns() -> None:
    heads, _, cells, *_ = folded(ROWS[:2], 120)[2:]
    assert heads.split() == ["configuration", "steps", "(up)", "status", "(measured)"]
    assert cells.split()[-6:] == ["100", "31.16", "±", "0.24", "ok", "-"]


def test_a_whole_table_fits_and_leaves_the_protocols_to_its_file(tmp_path: Path) -> None:
    table = build_table("table5", ablation(tmp_path), read_paper(PAPER))
    text = table_text(table, 100)
    assert max(map(len, text.splitlines())) <= 100
    for row in table.rows:
        assert row.title.split(",")[0] in " ".join(text.split())
    assert "* Protocol: model synthetic" in text
    assert "protocol " + table.metrics[0].fingerprint not in text


def test_the_width_is_the_terminals_and_else_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert width_here() == WIDTH
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert width_here() == 77


def test_files_are_told_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    away = Path(os.sep) / "elsewhere" / "b.md"
    assert written([tmp_path / "out" / "a.md", away, Path("c.md")]) == f"wrote out/a.md\nwrote {away}\nwrote c.md"
