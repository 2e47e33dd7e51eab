"""A table as Markdown, CSV and LaTeX: the same records give the same bytes."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cq.record import RunRecord
from cq.report.metrics import canonical
from cq.report.orders import order_sentences
from cq.report.paper import read_paper
from cq.report.tables import Table, build_table

if TYPE_CHECKING:
    import pandas as pd

TEX_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RenderedTable:
    """A written table: its Markdown, and every file it went to."""

    markdown: str
    files: tuple[Path, ...]


def render_table(
    name: str,
    records: Sequence[RunRecord],
    paper_csv: Path,
    out: Path,
    *,
    figures: bool = True,
    thumbnails: Path = Path(),
) -> RenderedTable:
    """Write `out`/tables/<name>.md, .csv, .tex and, unless `figures` is False, `out`/figures/<name>_*.png, .svg.

    thumbnails: the folder to which the records' thumbnail paths are relative. Raises ValueError as `build_table`.
    """
    table = build_table(name, records, read_paper(paper_csv))
    markdown = to_markdown(table)
    files = []
    for suffix, text in ((".md", markdown), (".csv", to_csv(table)), (".tex", to_latex(table))):
        path = out / "tables" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())  # bytes: line ends do not depend on the platform
        files.append(path)
    if figures:
        from cq.report.figures import write_figures

        files += write_figures(table, out / "figures", thumbnails=thumbnails)
    return RenderedTable(markdown=markdown, files=tuple(files))


def to_markdown(table: Table) -> str:
    """Title, table, and below it what stands behind the numbers."""
    frame = table.frame()
    lines = [f"# {table.title}", "", *_pipes(frame, _markdown_cell), ""]
    lines += [f"* {_markdown_cell(note)}" for note in notes(table)]
    orders = order_sentences(table)
    if orders:
        lines += ["", "## Orders"]
    for heading, sentences in orders:
        lines += ["", f"### {heading}"] if heading else []
        lines += ["", *(f"* {_markdown_cell(sentence)}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """One row a configuration, numbers at ten significant digits, empty where there is none."""
    frame = table.numbers()
    frame = frame.map(_number)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def to_latex(table: Table) -> str:
    """A booktabs table, with the protocols as comments above it."""
    frame = table.frame()
    lines = [f"% {note}" for note in notes(table)]
    lines += [rf"\begin{{tabular}}{{{'l' * frame.shape[1]}}}", r"\toprule"]
    lines += [" & ".join(map(_latex_cell, frame.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_latex_cell, row)) + r" \\" for row in frame.itertuples(index=False)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def notes(table: Table) -> list[str]:
    """What stands behind the numbers: protocols, seeds, images, devices, commits, dates, and whatever was left out."""
    records = [record for row in table.rows for record in row.records]
    ran = [record for record in records if record.status == "ok"]
    seeds = sorted({record.seed for record in ran})
    lines = [f"{c.title}: protocol {c.fingerprint[:12]}: {canonical(c.protocol)}" for c in table.metrics]
    images = sorted({count for column in table.metrics if (count := column.protocol.get("num_images")) is not None})
    lines.append(
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds)) or 'none'}); "
        f"images a run: {', '.join(map(str, images)) or 'not stated by the protocols'}. "
        "Several seeds: mean ± sample standard deviation; 1 seed: value [bootstrap interval]."
    )
    lines.append(
        "Counted: operations of the denoiser, averaged over the calls. Simulated: quality under fake quantization, "
        "which is never timed. Measured: wall clock of real kernels."
    )
    devices = sorted({str(record.measured["device"]) for record in ran if record.measured})
    if devices:
        several = "; times on different devices do not compare" if len(devices) > 1 else ""
        lines.append(f"Measured on: {', '.join(devices)}{several}.")
    settings = sorted({value.setting for row in table.rows for value in row.paper.values()})
    models = ", ".join(dict.fromkeys(row.model for row in table.rows))
    if settings:
        lines.append(
            f"Paper columns: {'; '.join(settings)}. Ours: {models}. "
            "Where the two differ in model or data, only orders compare, not values."
        )
        sources = sorted({value.source for row in table.rows for value in row.paper.values()})
        lines.append(f"Published values come from: {'; '.join(sources)}.")
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        for note in dict.fromkeys(record.note for record in row.ok if record.note):
            missing.setdefault(note, []).append(row.title)
    for note, titles in missing.items():
        where = "all rows that ran" if len(titles) == sum(bool(row.ok) for row in table.rows) else "; ".join(titles)
        lines.append(f"Noted by {where}: {note}")
    for key in table.unmatched:
        lines.append(f"paper_row={key!r} names no published row; its paper columns stay empty.")
    for experiment, seed, digest in table.superseded:
        lines.append(f"Left out: an earlier run of {experiment}, seed {seed}, otherwise configured ({digest[:12]}).")
    commits = sorted(
        {(r.commit[:12] or "unknown") + ("" if r.clean_tree else " (uncommitted changes)") for r in records}
    )
    days = sorted(record.date[:10] for record in records)
    until = f" to {days[-1]}" if days[-1] != days[0] else ""
    lines.append(f"Commits: {', '.join(commits)}. Runs of {days[0]}{until}.")
    return lines


def _number(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else format(value, ".10g")  # pandas makes NaN of a missing number
    return "" if value is None else value


def _pipes(frame: "pd.DataFrame", cell: Callable[[str], str]) -> list[str]:
    rows = [list(map(cell, row)) for row in ([*frame.columns], *frame.itertuples(index=False))]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]


def _markdown_cell(text: str) -> str:
    # A line break or a bar inside a label or a failure note would tear the table apart; a tag would vanish.
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", " ".join(text.split()).replace("|", "\\|"))


def _latex_cell(text: str) -> str:
    return "".join(TEX_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
