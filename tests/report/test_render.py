"""The same records give the same bytes, and the command says what is wrong."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cq.cli.report import main
from cq.report.render import render_table
from cq.run.config import PAPER
from cq.run.record_file import append, read
from cq.run.tables import table_names
from tests.report.synthetic import ablation, record

FIGURES = {"tradeoff", "overview", "coupling"}  # no "intervals": one interval only
INSIDE = {"schedules", "error", "images"}  # of the overview


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    for run in ablation(folder):
        append(run, folder / "runs.jsonl")
    return folder / "runs.jsonl"


def _report(runs: Path, out: Path, *arguments: str) -> int:
    return main([*arguments, "--records", str(runs), "--paper", str(PAPER), "--out", str(out)])


def test_two_renders_are_equal_byte_for_byte(runs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert _report(runs, tmp_path / name, "table5", "--svg") == 0
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    second = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}
    assert {str(path) for path in first} == {
        *(f"tables/table5{suffix}" for suffix in (".md", ".csv", ".tex", "_coupling.md", "_coupling.csv")),
        *(f"figures/table5_{figure}.png" for figure in FIGURES),
        *(f"figures/table5_{figure}.svg" for figure in FIGURES | INSIDE),
        "figures/table5.md",
    }
    assert first == second


def test_the_order_in_which_runs_finished_does_not_matter(runs: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "runs.jsonl"
    for run in reversed(read(runs)):
        append(run, shuffled)
    shutil.copytree(runs.parent / "thumbnails", tmp_path / "thumbnails")
    assert _report(runs, tmp_path / "a", "table5", "--no-figures") == 0
    assert _report(shuffled, tmp_path / "b", "table5", "--no-figures") == 0
    for suffix in ("md", "csv", "tex"):
        name = f"tables/table5.{suffix}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_figures_do_not_depend_on_the_settings_of_the_caller(runs: Path, tmp_path: Path) -> None:
    import matplotlib

    assert _report(runs, tmp_path / "a", "table5") == 0
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert _report(runs, tmp_path / "b", "table5") == 0
        assert matplotlib.rcParams["font.size"] == 30
    name = "figures/table5_overview.png"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_all_writes_every_table_with_records_and_prints_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(runs, tmp_path, "--all", "--no-figures") == 0
    assert capsys.readouterr().out.startswith("table5: Ablation of the parts\n")


def test_the_report_works_in_any_folder(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--all"]) == 2
    assert f"there is no record file in {tmp_path}" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    shutil.copytree(runs.parent / "protocols", "runs/protocols")
    shutil.copy(runs, "runs/records.jsonl")  # where `cq` keeps what is of no table
    assert main(["--all", "--no-figures"]) == 0
    assert capsys.readouterr().out.startswith("table5: ")
    assert (tmp_path / "runs/tables/table5.md").is_file()


def test_a_record_file_edited_on_purpose_is_sealed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = runs.read_text().splitlines(keepends=True)
    shutil.copytree(runs.parent / "protocols", tmp_path / "protocols")
    copy = tmp_path / "copy.jsonl"
    copy.write_text(first.replace('"seed":0', '"seed":7'))
    assert _report(copy, tmp_path, "--all", "--no-figures") == 2
    assert f"cq-report --seal {copy}" in capsys.readouterr().err
    assert main(["--seal", str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy}: 1 records, sealed\n"
    assert [found.seed for found in read(copy)] == [7]


def test_unknown_tables_and_missing_files_are_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(runs, tmp_path, "table9") == 2
    assert f"table='table9': unknown. Known tables: {table_names()}" in capsys.readouterr().err
    assert _report(tmp_path / "absent.jsonl", tmp_path, "table5") == 2
    assert "no such record file" in capsys.readouterr().err


def test_a_label_cannot_tear_the_table_apart(tmp_path: Path) -> None:
    rendered = render_table("table5", [record("a|b\n<i>_c & 5%")], PAPER, tmp_path, figures=False)
    line = next(line for line in rendered.markdown.splitlines() if "a\\|b &lt;i>_c & 5%" in line)
    assert line.startswith("| ")
    assert line.endswith(" |")
    assert r"a$|$b $<$i$>$\_c \& 5\%" in (tmp_path / "tables/table5.tex").read_text()


def test_strips_that_no_figure_shows_are_pruned(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs.parent / "thumbnails", "runs/thumbnails")
    for name in ("of_no_record", "elsewhere", "second"):
        shutil.copy("runs/thumbnails/0.png", f"runs/thumbnails/{name}.png")
    for run in read(runs):
        append(run if run.seed == 0 else replace(run, thumbnails="thumbnails/second.png"), Path("runs/records.jsonl"))
    append(replace(read(runs)[0], thumbnails="thumbnails/elsewhere.png"), Path("runs/others.jsonl"))
    before = {path.name for path in Path("runs/thumbnails").iterdir()}
    for wrong in (["table5"], ["--all", "--no-figures"], ["--all", "--records", "runs/records.jsonl"]):
        with pytest.raises(SystemExit):
            main([*wrong, "--prune"])
    assert main(["--all", "--prune"]) == 0
    assert "deleted runs/thumbnails/second.png\n" in capsys.readouterr().out
    assert {path.name for path in Path("runs/thumbnails").iterdir()} == before - {"second.png", "of_no_record.png"}


def test_records_without_figures_still_give_tables(tmp_path: Path) -> None:
    failed = record(status="failed", note="synthetic", scores={}, counted={}, schedule={})
    rendered = render_table("table5", [failed], PAPER, tmp_path)
    assert [path.name for path in rendered.files] == ["table5.md", "table5.csv", "table5.tex"]


def test_csv_leaves_missing_numbers_empty(runs: Path, tmp_path: Path) -> None:
    assert _report(runs, tmp_path, "table5", "--no-figures") == 0
    text = (tmp_path / "tables/table5.csv").read_text()
    assert "nan" not in text
    first = dict(zip(*(line.split(",") for line in text.splitlines()[:2]), strict=True))
    assert (first["label"], first["cache_interval"], first["paper_FID"]) == ("full precision", "", "3.37")


def test_what_a_run_could_not_score_is_said_below_the_table(tmp_path: Path) -> None:
    runs = [record(note="fid: needs weights | of Inception"), record("other", row=1)]
    rendered = render_table("table5", runs, PAPER, tmp_path, figures=False)
    assert "* Noted by synthetic row: fid: needs weights \\| of Inception\n" in rendered.markdown
