"""What is set and read by nothing is said, at the start of the run and of a table; what is read is not."""

from pathlib import Path

import pytest

from cq.cli.jobs import jobs_of
from cq.cli.table import recorded
from cq.evaluate.fidelity import Fidelity
from cq.evaluate.protocol import MetricUnavailable
from cq.run.components import Components
from cq.run.ledger import execute
from cq.run.record_file import read
from cq.run.unread import unread
from tests.refusals import DPS
from tests.tiny_runs import composed, quick


def keys(folder: Path, root: Path, choice: list[str], *overrides: str) -> list[str]:
    config, _ = composed(quick(folder, root, *choice, *overrides))
    return list(unread(config, Components.of(config), overrides))


def test_an_uncached_unquantized_run_reads_neither_intervals_nor_bits(tiny_folder: Path, tmp_path: Path) -> None:
    ignored = (
        "budget.cache_interval=3", "budget.weight_bits=4", "cost=squared", "calibrate.max_interval=3",
        "predict=taylor1", "predict.order=2", "correct@correct.quant=offset_only", "cache=cut",
    )  # fmt: skip
    heard = ("budget.num_steps=10", "seed=3", "budget.max_memory=20", "sampler=ddim", "latency.repeats=0", "row.name=x")
    found = keys(tiny_folder, tmp_path, [], *ignored, *heard)
    assert found == [
        "budget.cache_interval", "budget.weight_bits", "cost", "calibrate.max_interval", "predict", "predict.order",
        "correct.quant", "cache",
    ]  # fmt: skip


def test_what_a_schedule_or_a_quantizer_reads_is_not_said(tiny_folder: Path, tmp_path: Path) -> None:
    cached = ("budget.cache_interval=3", "cost=squared", "calibrate.max_interval=3", "predict=taylor1", "cache=cut")
    assert keys(tiny_folder, tmp_path, ["schedule=dps"], *cached) == []
    uniform = ["schedule=uniform"]
    assert keys(tiny_folder, tmp_path, uniform, *cached) == ["cost", "calibrate.max_interval"]
    corrected = [*uniform, "correct@correct.cache=offset_only"]
    assert keys(tiny_folder, tmp_path, corrected, "cost=squared", "calibrate.max_interval=3") == ["cost"]
    bits = ("budget.weight_bits=4", "correct@correct.quant=offset_only", "latency.batch_size=4")
    assert keys(tiny_folder, tmp_path, ["quantize=minmax"], *bits) == ["latency.batch_size"]
    own_steps = ["schedule=from_file", f"schedule.path={tmp_path}/schedule.json"]
    (tmp_path / "schedule.json").write_text("[0, 2, 4]")
    assert keys(tiny_folder, tmp_path, own_steps, "budget.cache_interval=3") == ["budget.cache_interval"]


def test_a_run_says_it_with_key_value_and_reason(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class StoppedError(Exception):
        pass

    def stopped(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr("cq.run.ledger.Source.now", stopped)
    config, choices = composed(quick(tiny_folder, tmp_path, "budget.cache_interval=7"))
    with pytest.raises(StoppedError):
        execute(config, choices, ["budget.cache_interval=7"])
    assert "budget.cache_interval=7: nothing reads it, for no component of this run asks for it." in caplog.text


def test_a_table_says_it_only_where_no_row_reads_it(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_of("table5", quick(tiny_folder, tmp_path, "budget.cache_interval=2", "predict=last", "cost=l1"))
    rows = [job for job in jobs if job.config.row.name in ("full_precision", "cache_uniform")]
    recorded(rows)
    assert "cost=l1: nothing reads it" in caplog.text
    assert "predict=last" not in caplog.text
    assert "budget.cache_interval" not in caplog.text


def test_a_run_without_a_score_is_incomplete_and_the_same_command_completes_it_without_drawing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise MetricUnavailable("fidelity: needs its weights. Download them.")

    config, choices = composed(quick(tiny_folder, tmp_path, DPS))
    with monkeypatch.context() as patch:
        patch.setattr(Fidelity, "compute", missing)
        first = execute(config, choices)
    assert (first.status, dict(first.scores)) == ("incomplete", {})
    assert first.note == "fidelity: needs its weights. Download them."
    monkeypatch.setattr("cq.run.stages.samples.generate", lambda *_, **__: pytest.fail("images were drawn again"))
    second = execute(config, choices)
    assert second.status == "ok"
    assert second.images_digest == first.images_digest
    assert "psnr_fp_db" in second.scores
    assert execute(config, choices) == second
    assert [record.status for record in read(tmp_path / "records.jsonl")] == ["incomplete", "ok"]
