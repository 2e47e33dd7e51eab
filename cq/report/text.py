"""Cells and tables in Markdown and LaTeX."""

import re
from collections.abc import Sequence

TEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "†": r"$\dagger$", "‡": r"$\ddagger$",
}  # fmt: skip
PDFTEX_KNOWS = 0x180  # Latin with accents; further letters stop it


def pipes(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first row the heads, in columns that also line up unrendered."""
    cells = [list(map(markdown_cell, row)) for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]


def bullets(sentences: Sequence[str]) -> list[str]:
    return [f"* {markdown_cell(sentence)}" for sentence in sentences]


def markdown_cell(text: str) -> str:
    # A line break or a bar inside a label or a failure note would tear the table apart; a tag would vanish.
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", " ".join(text.split()).replace("|", "\\|"))


def latex_cell(text: str) -> str:
    """Escaped; a letter that pdfTeX does not know by itself becomes a question mark rather than an error."""
    escaped = "".join(
        TEX_ESCAPES.get(letter, letter if ord(letter) < PDFTEX_KNOWS else "?") for letter in " ".join(text.split())
    )
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # after a line end they would be its argument
