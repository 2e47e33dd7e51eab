"""What a run gives back to a search, and what is refused before it runs."""

import sys
from pathlib import Path

import pytest

from cq.cli.main import main
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import CallSeconds
from cq.run.evaluation import check_limit
from cq.run.ledger import config_digest, execute
from cq.run.objective import COUNTED, Missing, numbers_of, returned
from cq.run.pipeline import check_seconds
from cq.run.record import RunRecord
from cq.run.stages.samples import Baseline
from tests.tiny_runs import composed, quick

CACHED = ("schedule=uniform", "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2")


@pytest.fixture(scope="module")
def record(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    root = tmp_path_factory.mktemp("objective")
    return execute(*composed(quick(tiny_folder, root, *CACHED, "objective=[psnr_fp_db,bops_share]")))


def test_a_run_returns_what_was_asked_in_its_order(record: RunRecord) -> None:
    numbers = returned(record, record.config["objective"])
    assert not isinstance(numbers, Missing)
    psnr, share = numbers
    assert psnr == record.scores["psnr_fp_db"]["value"]
    counted = record.counted
    assert share == pytest.approx(counted["bops_mean"] / (1024 * counted["macs_full"]))
    assert numbers_of(record)["bops_image"] == counted["bops_mean"] * 10
    assert returned(record, ()) == ()
    assert isinstance(missing := returned(record, ["seconds_share"]), Missing)
    assert "seconds_share" in missing.reason


def test_what_is_aimed_at_does_not_change_the_question(record: RunRecord, tiny_folder: Path, tmp_path: Path) -> None:
    plain, _ = composed(quick(tiny_folder, tmp_path, *CACHED))
    aimed, _ = composed(quick(tiny_folder, tmp_path, *CACHED, "objective=[ssim_fp]", "limit.bops_share=1"))
    assert config_digest(plain) == config_digest(aimed) == record.config_digest


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("objective=[psnr_fp]",), ("objective=psnr_fp", "Did you mean 'psnr_fp_db'", "bops_share", "latent_error_fp")),
        (("objective=[frechet_own]",), ("objective=frechet_own", "no such number")),
        (("objective=[seconds_share]",), ("objective=seconds_share", "latency.repeats=0", "latency=default")),
        (("objective=[seconds_share]", "quantize=ptq", "latency=demo"), ("fake quantization is never timed", "bops_")),
        (("objective=[ssim_fp,ssim_fp]",), ("twice",)),
    ],
)
def test_an_unknown_objective_is_refused_before_anything_runs(
    overrides: tuple[str, ...], told: tuple[str, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    config, _ = composed(quick(tiny_folder, tmp_path, *overrides))
    with pytest.raises(ValueError, match="objective=") as error:
        Components.of(config)
    assert [words for words in told if words not in str(error.value)] == []


def test_objectives_know_which_way_is_good(tiny_folder: Path, tmp_path: Path) -> None:
    config, _ = composed(quick(tiny_folder, tmp_path, "latency=demo"))
    parts = Components.of(config)
    found = parts.objectives(["psnr_fp_db", "latent_error_fp", "seconds_share"])
    assert [each.better for each in found] == ["up", "down", "down"]
    assert [each.better for each in parts.objectives(COUNTED)] == ["down"] * len(COUNTED)


def test_a_limit_holds_exactly_at_what_a_run_counts(record: RunRecord, tiny_folder: Path, tmp_path: Path) -> None:
    config, _ = composed(quick(tiny_folder, tmp_path, *CACHED))
    parts = Components.of(config)
    found = {key: numbers_of(record)[key] for key in COUNTED}
    check_limit(parts, {key: value * 1.001 for key, value in found.items()})
    for key, value in found.items():
        with pytest.raises(ValueError, match=rf"limit.{key}=.*will count about"):
            check_limit(parts, {key: value * 0.999})


def test_a_run_that_would_take_longer_than_its_limit_is_refused_unless_its_stages_are_there(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of 2 seconds a full call, 1 a cached one: 2 images of 4 calls twice, half of the second's cached."""
    arguments = quick(tiny_folder, tmp_path, "schedule=uniform", "budget.num_steps=4", "sample.num_images=2")
    calls = CallSeconds(full=2.0, cached=1.0)
    monkeypatch.setattr("cq.run.pipeline.calls_of", lambda *_: calls)
    config, choices = composed([*arguments, "limit.seconds=27"])
    with pytest.raises(ValueError, match=r"limit.seconds=27: this run will take about 28\b.*Raise the limit"):
        execute(config, choices)
    assert not (tmp_path / "records.jsonl").exists()
    unlimited, _ = composed([*arguments, "limit.seconds=null"])
    assert config_digest(config) == config_digest(unlimited)
    parts = Components.of(unlimited)
    check_seconds(parts, 29, anew=False)
    Baseline(Run(parts)).drawn(Baseline(Run(parts)).unaccelerated)()
    check_seconds(parts, 13, anew=False)  # what is there takes no time
    with pytest.raises(ValueError, match=r"about 28\b"):
        check_seconds(parts, 13, anew=True)


def test_a_search_without_its_extra_says_what_to_install(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(sys, "argv", ["cq"])
    search = ("hydra/sweeper=optuna", "objective=[psnr_fp_db]", "schedule=uniform,dps")
    assert main(["-m", *quick(tiny_folder, tmp_path, *search)]) == 2
    assert "needs Optuna, which is not installed. pip install 'cq[search]'" in capsys.readouterr().err
    assert not (tmp_path / "records.jsonl").exists()
