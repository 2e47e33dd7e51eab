"""Pages of runs and sweeps: they hold all they show, and say what is gone."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from cq.cli.page import file_of, lines
from cq.cli.report import main
from cq.report.build import build_table
from cq.report.html import LARGEST, Html, html, table
from cq.report.kept import Kept, command, kept
from cq.report.paper import Paper
from cq.report.pick import Run
from cq.report.run_page import baseline_of, run_page
from cq.report.sweep_page import axes_in
from cq.run.record import RunRecord
from cq.run.record_file import append
from tests.report.synthetic import ablation, record

SECTIONS = (
    "Signs of failure", "What was asked", "Scores", "Counted, simulated, executed, measured", "Schedule",
    "Error by step", "Corrections", "Layers by share of error", "Images", "Protocol", "Artefacts",
)  # fmt: skip


class Page(HTMLParser):
    """Tags that are opened are closed, headings, sources, and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.heads: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        found = dict(attrs)
        self.sources += [found["src"] or ""] if "src" in found else []
        self.links += [found["href"] or ""] if "href" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.heads.append(data)

    def images(self) -> Iterator[Image.Image]:
        for source in self.sources:
            assert source.startswith("data:image/png;base64,")
            yield Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def test_the_page_of_a_run_holds_all_it_shows(tiny_run: Run, tiny_kept: Kept) -> None:
    text = run_page(tiny_run, "a tiny run", tiny_kept, [tiny_run.record])
    page = Page(text)
    assert tuple(page.heads) == SECTIONS
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.links == ["data:,"]
    assert len(text) < LARGEST
    assert tiny_kept.gone == {}
    assert tiny_kept.diagnosis is not None
    images = list(page.images())
    # schedule, error by step, two corrections or more, layers, first images, those furthest off
    assert len(images) >= 7
    assert all(image.size > (90, 90) for image in images)
    for said in (command(tiny_run.record), "fake quantization is never timed", *tiny_kept.diagnosis.layers):
        assert html(said) in text


def test_what_is_gone_is_said_with_the_command_that_makes_it_again(tiny_run: Run, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.file.parent, tmp_path / "moved")
    run = replace(tiny_run, file=tmp_path / "moved" / tiny_run.file.name)
    shutil.rmtree(run.file.parent / "store" / "samples")
    found = kept(run, layers=False)
    assert found.acceleration is not None
    assert found.samples is None
    assert "is no longer in its store" in found.gone["samples"]
    assert "--no-layers" in found.gone["diagnosis"]
    text = run_page(run, "a tiny run", found, [])
    assert "The command above makes it again, with force=true." in text
    assert html(command(run.record)) in text
    assert tuple(Page(text).heads) == SECTIONS
    before = replace(run, record=replace(run.record, folders={}, store="", overrides=()))
    found = kept(before, layers=True)
    assert found.acceleration is None
    assert "before records named their folders" in found.gone["diagnosis"]
    assert "correct@correct.cache=channel_affine" in command(before.record)
    filled = record("row", experiment="table5/cache_dps", overrides=("seed=2", "model=x"))  # as cq-table keeps it
    assert command(filled) == "cq experiment=table5/cache_dps seed=2 model=x"
    assert command(replace(filled, overrides=("experiment=table5/cache_dps", "seed=2"))).count("experiment") == 1
    assert command(record("row", seed=2)) == (
        "cq experiment=synthetic/row model=synthetic budget.num_steps=100 budget.cache_interval=20 "
        "budget.weight_bits=8 budget.act_bits=8 seed=2"
    )


def test_a_record_of_before_a_section_was_there_is_rebuilt(tiny_run: Run, tiny_kept: Kept) -> None:
    config = {key: value for key, value in tiny_run.record.config.items() if key != "objective"}
    budget = {key: value for key, value in config["budget"].items() if key != "max_memory"}
    run = replace(tiny_run, record=replace(tiny_run.record, config={**config, "budget": budget}))
    found = kept(run, layers=True)
    assert found.gone == {}
    assert found.diagnosis is not None
    assert tiny_kept.diagnosis is not None
    assert found.diagnosis.digest == tiny_kept.diagnosis.digest


def test_the_command_writes_pages_of_runs_and_sweeps(
    tiny_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["page", str(tiny_run.file), "--each", "--no-layers", "--out", str(tmp_path)]) == 0
    own, sweep = tmp_path / file_of(tiny_run.record), tmp_path / f"{tiny_run.record.table}.html"
    assert capsys.readouterr().out == f"wrote {own}\nwrote {sweep}\n"
    assert Page(own.read_text()).heads[0] == SECTIONS[0]
    assert own.name in Page(sweep.read_text()).links
    assert main(["page", "nothing of that name", "--records", str(tiny_run.file)]) == 2
    assert "names none of the 1 runs" in capsys.readouterr().err


def grid(folder: Path) -> list[RunRecord]:
    """Four cells of a grid: schedule x quantize."""
    firsts = [each for each in ablation(folder, seeds=1) if each.label in ("cached, uniform", "quantized + DPS")]
    return [
        replace(
            first, table="runs", experiment="runs/run", label="single run", row=0, paper_row="",
            overrides=(f"schedule={schedule}", kind), choices={**first.choices, "schedule": schedule},
            config={**first.config, "schedule": schedule, "quantize": kind}, config_digest=f"{schedule}{kind}",
        )
        for first, kind in zip(firsts, ("quantize=none", "quantize=ptq"), strict=True)
        for schedule in ("uniform", "dps")
    ]  # fmt: skip


def test_the_page_of_a_sweep_shows_every_cell_and_what_each_axis_does(tmp_path: Path) -> None:
    for each in grid(tmp_path):
        append(each, tmp_path / "records.jsonl")
    (written,) = lines(["runs", "--records", str(tmp_path / "records.jsonl"), "--out", str(tmp_path)])
    text = Path(written.removeprefix("wrote ")).read_text()
    page = Page(text)
    assert page.heads == [
        "Signs of failure", "Cells", "Quality against cost", "What each axis does", "Schedules", "Error by step",
        "Images",
    ]  # fmt: skip
    for cell in ("uniform", "dps", "ptq, uniform", "ptq, dps"):
        assert text.count(f"<td>{cell}</td><td>") == 1
    costs = [each.counted["bops_mean"] for each in grid(tmp_path)]
    assert all(f'data-v="{cost}"' in text for cost in costs)  # "1 G" sorts after "900 M"
    assert len(text) < LARGEST
    assert all(image.size > (300, 100) for image in page.images())


def test_an_axis_is_what_rows_differ_in(tmp_path: Path) -> None:
    found = build_table("runs", grid(tmp_path), Paper([]))
    assert axes_in(found)["schedule"] == ["uniform", "dps", "uniform", "dps"]
    assert "N" not in axes_in(found)


def test_text_is_escaped_once() -> None:
    assert table(["<a>"], [["x & y", Html("<b>z</b>")]]).count("<b>z</b>") == 1
    assert "&lt;a&gt;" in table(["<a>"], [["x & y"]])
    assert "x &amp; y" in table(["<a>"], [["x & y"]])


def test_the_baseline_is_of_the_same_model_seed_and_steps() -> None:
    whole = {**record().counted, "num_refreshes": record().counted["num_calls"]}
    full = record("full", choices={"quantize": "none"}, counted=whole)
    assert baseline_of(record(), [record("other"), full]) is full
    assert baseline_of(record(seed=1), [full]) is None
    assert baseline_of(record(config={"baseline": {"num_steps": 7, "sampler": "ddim"}}), [full]) is None
