"""A table on a terminal: within its width, a wide one in blocks that repeat the names of the rows."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cq.report.cells import DASH
from cq.report.notes import not_run_rows, notes
from cq.report.orders import order_sentences
from cq.report.tables import Table

WIDTH = 120  # columns, where nobody's terminal says otherwise
NARROWEST = 40
GAP = 2
HEAD = 14  # characters to which the head of a column is broken, where its cells are not wider
CELL = 40  # and a cell


def width_here() -> int:
    """Columns of the terminal that reads along; `WIDTH` for a file or a pipe."""
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def table_text(table: Table, width: int) -> str:
    """What `cq-report` says of a table; the protocol of each metric stands in its file only."""
    heads, *lines = table.lines()
    body = [[row.title, *line[1:]] for row, line in zip(table.rows, lines, strict=True)]
    parts = [table.title, "", *folded([heads, *body], width), "", *points(notes(table, protocols=False), width)]
    if missing := not_run_rows(table):
        parts += ["", "Published rows that were not run:", "", *folded(missing, width)]
    for heading, sentences in order_sentences(table):
        words = heading[:1].lower() + heading[1:]
        parts += ["", f"Orders {words}".rstrip() + ":", *points(sentences, width)]
    return "\n".join(parts) + "\n"


def folded(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of at most `width` characters: heads, then the body, in as many blocks as it takes.

    The first column names the rows, and begins every block. A column in which all rows agree is said once, below.
    """
    heads, *body = rows
    alike = [place for place in range(1, len(heads)) if len(body) > 1 and len({row[place] for row in body}) == 1]
    wide = _columns(rows, alike, width, width // 2)
    fits = sum(_wide(column) + GAP for column in wide.values()) - GAP <= width
    columns = wide if fits else _columns(rows, alike, width, min(CELL, width // 3))
    blocks: list[list[int]] = [[]]
    for place in list(columns)[1:]:
        if blocks[-1] and sum(_wide(columns[other]) + GAP for other in (0, *blocks[-1], place)) - GAP > width:
            blocks.append([])
        blocks[-1].append(place)
    lines = [line for block in blocks for line in ("", *_block([columns[place] for place in (0, *block)]))][1:]
    same = [f"{heads[place]} {body[0][place]}" for place in alike if body[0][place] != DASH]
    none = [heads[place] for place in alike if body[0][place] == DASH]
    said = [f"In every row: {'; '.join(same)}."] * bool(same) + [f"In no row: {'; '.join(none)}."] * bool(none)
    return lines + [line for text in said for line in ("", *_broken(text, width))]


def points(sentences: Sequence[str], width: int) -> list[str]:
    """One bullet a sentence, broken at words."""
    return [line for sentence in sentences for line in _broken(f"* {sentence}", width, indent="  ")]


def written(files: Sequence[Path]) -> str:
    """A line for every file, from the working folder where it lies in it."""
    here = Path.cwd()
    return "\n".join(
        f"wrote {path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path}"
        for path in files
    )


def _columns(
    rows: Sequence[Sequence[str]], left_out: Sequence[int], width: int, name: int
) -> dict[int, list[list[str]]]:
    """Place to column. name: characters that the first one may take."""
    found = {0: _column([row[0] for row in rows], name)}
    rest = min(CELL, width - _wide(found[0]) - GAP)
    return found | {
        place: _column([row[place] for row in rows], rest) for place in range(1, len(rows[0])) if place not in left_out
    }


def _column(cells: Sequence[str], width: int) -> list[list[str]]:
    """Each cell as its lines; the head is as narrow as the body lets it be."""
    body = [_broken(text, width, indent=" ") for text in cells[1:]]
    widest = max((len(line) for lines in body for line in lines), default=0)
    return [_broken(cells[0], max(HEAD, widest)), *body]


def _broken(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _wide(column: Sequence[Sequence[str]]) -> int:
    return max(len(line) for lines in column for line in lines)


def _block(columns: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    widths = [_wide(column) for column in columns]
    lines = []
    for number, cells in enumerate(zip(*columns, strict=True)):
        height = max(map(len, cells))
        for at in range(height):
            # heads stand on their rule, cells hang from their first line
            parts = [
                cell[place] if 0 <= (place := at - (height - len(cell)) * (number == 0)) < len(cell) else ""
                for cell in cells
            ]
            lines.append((" " * GAP).join(map(str.ljust, parts, widths)).rstrip())
        if number == 0:
            lines.append((" " * GAP).join("-" * width for width in widths))
    return lines
