"""A table as Markdown, CSV and LaTeX: the same records give the same bytes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cq.report.build import build_tables
from cq.report.coupling import coupling_frame, coupling_markdown
from cq.report.notes import not_run_rows, notes
from cq.report.orders import order_sentences
from cq.report.paper import read_paper
from cq.report.preparation import preparation_frame, preparation_markdown
from cq.report.tables import Table
from cq.report.terminal import table_text
from cq.report.text import bullets, latex_cell, pipes
from cq.report.winners import winners_frame, winners_markdown
from cq.run.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class RenderedTable:
    """A written table, or its parts, one a model: every file it went to, and the strips that its figures show."""

    tables: tuple[Table, ...]
    files: tuple[Path, ...]
    strips: tuple[Path, ...]

    @property
    def markdown(self) -> str:
        return "\n".join(map(to_markdown, self.tables))

    def text(self, width: int) -> str:
        """As a terminal of so many columns shows it."""
        return "\n".join(table_text(table, width) for table in self.tables)


def render_table(
    name: str,
    records: Sequence[RunRecord],
    paper_csv: Path,
    out: Path,
    *,
    figures: bool = True,
    svg: bool = False,
    thumbnails: Path = Path(),
) -> RenderedTable:
    """Write `out`/tables/<name>.md, .csv, .tex and, unless `figures` is False, the figures and `out`/figures/<name>.md.

    Also `out`/tables/<name>_winners.md, .csv where rows differ in nothing but their schedule, <name>_coupling.* where
    each technique stands alone and combined, and <name>_preparation.* where the time to prepare differs. Where the
    table is one a model, all that for each. svg: figures also as SVG. thumbnails: the folder to which the records'
    thumbnail paths are relative. Raises ValueError as `build_tables`.
    """
    tables = build_tables(name, records, read_paper(paper_csv))
    files = [path for table in tables for path in _write(table, out)]
    strips: list[Path] = []
    if figures:
        from cq.report.gallery import strips_shown, write_figures

        for table in tables:
            files += write_figures(table, out / "figures", thumbnails=thumbnails, svg=svg)
            strips += strips_shown(table, thumbnails)
    return RenderedTable(tables=tuple(tables), files=tuple(files), strips=tuple(strips))


def _write(table: Table, out: Path) -> list[Path]:
    name = table.name
    texts = {f"{name}.md": to_markdown(table), f"{name}.csv": to_csv(table.numbers()), f"{name}.tex": to_latex(table)}
    if text := winners_markdown(table):
        texts |= {f"{name}_winners.md": text, f"{name}_winners.csv": to_csv(winners_frame(table))}
    if text := coupling_markdown(table):
        texts |= {f"{name}_coupling.md": text, f"{name}_coupling.csv": to_csv(coupling_frame(table))}
    if text := preparation_markdown(table):
        texts |= {f"{name}_preparation.md": text, f"{name}_preparation.csv": to_csv(preparation_frame(table))}
    files = []
    for file, content in texts.items():
        path = out / "tables" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())  # bytes: line ends do not depend on the platform
        files.append(path)
    return files


def to_markdown(table: Table) -> str:
    """Title, table, what stands behind the numbers, published rows without a run, and the paper's orders."""
    lines = [f"# {table.title}", "", *pipes(table.lines()), "", *bullets(notes(table))]
    if missing := not_run_rows(table):
        lines += ["", "## Published rows that were not run", "", *pipes(missing)]
    if orders := order_sentences(table):
        lines += ["", "## Orders"]
        for heading, sentences in orders:
            lines += ["", f"### {heading}"] if heading else []
            lines += ["", *bullets(sentences)]
    return "\n".join(lines) + "\n"


def to_csv(frame: "pd.DataFrame") -> str:
    """Numbers at ten significant digits, empty where there is none."""
    text: str = frame.map(_number).to_csv(index=False, lineterminator="\n")
    return text


def to_latex(table: Table) -> str:
    """A booktabs table, scaled down where it is wider than a line; what stands behind the numbers as comments above.

    Many columns read best on a page of their own, turned.
    """
    heads, *body = table.lines()
    lines = ["% needs \\usepackage{booktabs,graphicx}; to turn the page: \\usepackage{pdflscape}, landscape"]
    lines += [f"% {' '.join(note.split())}" for note in notes(table)]
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{{'l' * len(heads)}}}", r"\toprule"]
    lines += [" & ".join(map(latex_cell, heads)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(latex_cell, row)) + r" \\" for row in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}%", "}"]) + "\n"


def _number(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".10g")  # pandas makes NaN of a missing number
    return "" if value is None else value
