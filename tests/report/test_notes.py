"""What stands below a table."""

from pathlib import Path
from typing import Any

import pytest

from cq.report.build import build_table
from cq.report.notes import not_run_rows, notes
from cq.report.paper import Paper, read_paper
from cq.report.render import to_latex, to_markdown
from cq.run.config import PAPER
from tests.report.sweep import sweep
from tests.report.synthetic import ablation, record, score


@pytest.fixture(name="paper", scope="module")
def _paper() -> Paper:
    return read_paper(PAPER)


def test_the_protocol_line_holds_what_all_metrics_share(paper: Paper) -> None:
    digest = "ab" * 32
    both: dict[str, Any] = {"guidance": 1.5, "eta": 0.0, "classes": "balanced", "weights": digest}
    scores = {
        "frechet_own": score(1.0, features=digest[::-1], definition="squared distance", **both),
        "psnr_fp_db": score(9.0, better="up", metric="psnr_fp_db", **both),
    }
    runs = [record(seed=seed, scores=scores) for seed in (0, 2)]
    first, second, *_ = notes(build_table("table5", runs, paper))
    assert first == (
        "Protocol: model synthetic, weights abababababab, 64 images a run, classes balanced, 100 steps, guidance 1.5, "
        "eta 0.0, feature network babababababa, 2 seeds (0, 2)."
    )
    assert second.endswith(': definition="squared distance", metric="frechet_own"')


def test_a_field_in_which_metrics_differ_stays_with_each(paper: Paper) -> None:
    scores = {"frechet_own": score(1.0), "kid_own": score(1.0, metric="kid_own", num_images=32)}
    first, second, third, *_ = notes(build_table("table5", [record(scores=scores)], paper))
    assert first == "Protocol: model synthetic, 100 steps, 1 seed (0)."
    assert second.endswith('metric="frechet_own", num_images=64')
    assert third.endswith('metric="kid_own", num_images=32')


def test_published_rows_without_a_run_are_listed_with_what_they_need(paper: Paper, tmp_path: Path) -> None:
    table = build_table("table5", sweep(tmp_path), paper)
    _, *lines = not_run_rows(table)
    assert lines == [
        [
            "+ DPS + DEC + reconstruction",
            "LDM-4 (cin256-v2), ImageNet 256x256, 250 steps",
            "N = 20, W8A8",
            "FID 6.34 †, IS 180.42 †",
            "note on the paper: GitHub zhaoyang97/Paper-Notes-en",
            "not run here: needs reconstruction of quantized layers, weights of LDM-4 ImageNet (cin256-v2) and a GPU",
        ]
    ]
    text = to_markdown(table)
    assert "## Published rows that were not run\n" in text
    assert "* Published values: † medium confidence in the transcription.\n" in text


def test_a_row_that_failed_or_was_not_run_is_in_the_table_and_not_listed_twice(paper: Paper, tmp_path: Path) -> None:
    assert not_run_rows(build_table("table5", ablation(tmp_path), paper)) == []


def test_a_row_of_another_table_is_no_run_of_this_ones(paper: Paper) -> None:
    runs = [record(table="table3", paper_row="table2/cachequant_n5_w8a8")]
    assert [line[0] for line in not_run_rows(build_table("table3", runs, paper))[1:]] == ["Delta-DiT", "CacheQuant"]
    mapped = [record(table="table3", paper_row="table3/cachequant_n2_w8a8")]
    assert [line[0] for line in not_run_rows(build_table("table3", mapped, paper))[1:]] == ["Delta-DiT"]


def test_latex_is_plain_ascii_with_as_many_cells_as_columns(paper: Paper, tmp_path: Path) -> None:
    runs = [*sweep(tmp_path), record("[r&d]_#1 {50 %} ~^\\ ☂ é", row=99, note="two\nlines", experiment="x")]
    lines = to_latex(build_table("table5", runs, paper)).splitlines()
    body = [line for line in lines if not line.startswith("%")]
    assert lines[0].startswith(r"% needs \usepackage{booktabs,graphicx}")
    assert body[0].startswith(r"\resizebox{")
    assert body[1].startswith(r"\begin{tabular}{")
    columns = body[1].count("l", body[1].rindex("{"))
    cells = [line for line in body if line.endswith(r" \\")]
    assert len(cells) == 1 + 46
    for line in cells:
        assert line.replace(r"\&", "").count("&") == columns - 1
        assert line.count("{") == line.count("}")
        assert line.count("$") % 2 == 0
        assert line.isascii() or "é" in line
    odd = next(line for line in cells if line.startswith("{}"))
    assert odd.startswith(r"{}[r\&d]\_\#1 \{50 \%\} \textasciitilde{}\textasciicircum{}\textbackslash{} ? é & ")
    assert body[-2:] == [r"\end{tabular}%", "}"]
    assert all(line.startswith(("%", "\\")) or line.endswith(r" \\") for line in lines[:-1])
    text = "\n".join(body)
    assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")
