"""The front is what nothing beats; controls stand apart; every number stands where it can be read."""

import random
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cq.cli.report import main
from cq.report.build import build_table
from cq.report.looks import style
from cq.report.paper import read_paper
from cq.report.pareto import FEWER, FULL, Front, Point, Respect, front_of, table_front
from cq.report.pareto_figure import pareto_figure
from cq.report.quantities import named
from cq.run.config import PAPER
from cq.run.record_file import append
from tests.report.synthetic import ablation, record


def respect(key: str, better: str) -> Respect:
    return Respect(key=key, title=f"{key} (counted)", better=better, text=lambda value: f"{value:.2f}")


COST, QUALITY, MEMORY = respect("cost", "down"), respect("quality", "up"), respect("memory", "down")


def names(front: Front) -> list[str]:
    return [front.points[place].name for place in front.best]


def test_the_front_is_what_no_other_point_beats() -> None:
    values = {
        "cheap": (1, 10),
        "good": (9, 30),
        "middle": (5, 29),
        "worse": (6, 28),
        "dearer": (2, 10),
        "twin": (5, 29),
    }
    front = front_of([Point(name=name, values=pair) for name, pair in values.items()], [COST, QUALITY])
    assert names(front) == ["cheap", "middle", "twin", "good"]
    assert front.marks == {0: "1", 2: "2", 3: "3", 5: "4"}
    assert front.beaten_by(4, controls=False) == ["middle", "twin"]


def test_against_every_pair_of_random_points() -> None:
    drawn = random.Random(0)
    points = [Point(name=str(at), values=tuple(drawn.randint(0, 6) for _ in range(3))) for at in range(60)]
    front = front_of(points, [COST, QUALITY, MEMORY])
    for place, (cost, quality, memory) in enumerate(point.values for point in front.points):
        better = [
            (c, q, m) != (cost, quality, memory) and c <= cost and q >= quality and m <= memory
            for c, q, m in (point.values for point in points)
        ]
        assert (place in front.best) != any(better)


def test_a_control_is_no_part_of_the_front_and_is_named_where_it_beats_it() -> None:
    points = [
        Point(name="cached", values=(5.0, 20.0)),
        Point(name="quantized", values=(2.0, 15.0)),
        Point(name="20 steps", values=(4.0, 22.0), control=FEWER),
        Point(name="10 steps", values=(4.0, 12.0), control=FEWER),
        Point(name="all", values=(9.0, 40.0), control=FULL),
    ]
    front = front_of(points, [COST, QUALITY])
    assert names(front) == ["quantized", "cached"]
    assert front.marks == {0: "1", 3: "2", 1: "a", 2: "b", 4: "c"}
    assert [front.points[place].name for place in front.fewer] == ["20 steps"]
    assert [line[-1] for line in front.lines()[1:]] == ["-", "20 steps", FEWER, FEWER, FULL]


@pytest.mark.parametrize("third", ["", "memory", "group"])
def test_no_number_covers_a_point_or_another_number(third: str) -> None:
    """Points in a heap, as the rows of one interval are."""
    drawn = random.Random(1)
    costs = [1 + at % 3 + drawn.random() / 9 for at in range(24)]
    points = [
        Point(
            name=f"configuration {at}",
            values=(cost, 30 + cost + drawn.random() / 4, *[drawn.random()] * (third == "memory")),
            control=FEWER if at % 8 == 0 else "",
            group=str(at % 2) if third == "group" else "",
        )
        for at, cost in enumerate(costs)
    ]
    respects = [COST, QUALITY, *[MEMORY] * (third == "memory")]
    front = front_of(points, respects, "group" if third == "group" else "")
    with style():
        figure = pareto_figure(front, "title")
        figure.canvas.draw()
    axes = figure.axes[0]
    texts = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(front.marks.values())
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])
    places = axes.transData.transform([point.values[:2] for point in front.points])
    assert not any(box.contains(x, y) for box in boxes for x, y in places)


def test_a_table_gives_its_points(tmp_path: Path) -> None:
    table = build_table("table5", ablation(tmp_path), read_paper(PAPER))
    axes = [named(key, table.metrics, "") for key in ("bops_image", "frechet_own")]
    front = table_front(table, axes, group="schedule")
    assert front.groups == "schedule"
    assert [point.control for point in front.points if point.name == "full precision"] == [FULL]
    assert names(front)[0] == "quantized + DPS + DEC-cache"
    assert all(point.band is not None for point in front.points)
    costs = {point.name: point.values[0] for point in front.points}
    assert costs["full precision"] == 10_000_000 * 1024 * 100  # a call of all blocks, a hundred times
    with pytest.raises(ValueError, match=r"--z shedule: is no quantity.*Choices are cache, engine, predict"):
        table_front(table, axes, group="shedule")
    with pytest.raises(ValueError, match="Colour by it: --z num_steps"):
        table_front(table, [axes[0], named("steps", table.metrics, "")])


def test_measured_and_counted_never_share_an_axis(tmp_path: Path) -> None:
    """Quantized rows were not timed: they are missing from an axis of seconds, and that is said."""
    table = build_table("table5", ablation(tmp_path), read_paper(PAPER))
    front = table_front(table, [named(key, table.metrics, "") for key in ("seconds", "frechet_own")])
    assert [point.name for point in front.points] == ["cached, uniform", "full precision"]
    assert front.respects[0].title == "s/image (measured)"
    assert any("fake quantization is never timed: quantized only" in note for note in front.notes)


def test_the_command_draws_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in [*ablation(tmp_path), record("of another table", table="table4")]:
        append(each, tmp_path / "runs.jsonl")
    asked = ["--records", str(tmp_path / "runs.jsonl"), "--y", "frechet_own", "--out", str(tmp_path)]
    assert main(["pareto", "table5", *asked, "--z", "schedule"]) == 0
    told = capsys.readouterr().out
    assert max(len(line) for line in told.splitlines() if not line.startswith("wrote")) <= 120
    assert " 1. quantized + DPS + DEC-cache" in told
    base = tmp_path / "table5_pareto_bops_image_frechet_own_schedule"
    assert f"wrote {base}.png" in told
    with Image.open(f"{base}.png") as picture:
        assert picture.size[0] > 1000
    points = pd.read_csv(f"{base}.csv", keep_default_na=False)
    assert set(points[points.front].configuration) <= set(points.configuration)
    assert points[points.configuration == "full precision"].control.item() == FULL
    assert main(["pareto", *asked]) == 2
    assert "records are of several. Name one of table4, table5" in capsys.readouterr().err
