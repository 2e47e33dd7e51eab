"""What a run says at its beginning and its end: lines that fit, with scores beside those of full precision."""

import logging
from pathlib import Path

import pytest

from cq.run.ledger import execute
from tests.tiny_runs import composed, quick

QUANTIZED = ("schedule=uniform", "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2")
OWN = ("+metric@metrics.own=inception_score_own", "metrics.own.resamples=40")


def test_a_run_says_what_it_will_do_and_what_came_out(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    execute(*composed(quick(tiny_folder, tmp_path)))
    caplog.clear()
    record = execute(*composed(quick(tiny_folder, tmp_path, *QUANTIZED)))
    told = caplog.messages
    assert all(len(line) + len("12:00:00 ") <= 120 for line in told if "/" not in line)
    (beginning,) = (line for line in told if line.startswith("4 images of 10 calls on cpu ("))
    assert beginning.endswith("threads), float32, engine Simulate")
    (estimate,) = (number for number, line in enumerate(told) if line.startswith("about "))
    assert told.index(beginning) < estimate < next(i for i, line in enumerate(told) if line.startswith("samples done"))
    end = " ".join(told[next(i for i, line in enumerate(told) if line.startswith("single run, seed 0: psnr_fp_db ")) :])
    assert f"psnr_fp_db {record.scores['psnr_fp_db']['value']:.4g}, ssim_fp" in end  # not beside its own self
    share = record.counted["bops_mean"] / record.counted["macs_full"] / 1024
    assert f"BOPs a call ({share:.1%} of full precision's" in " ".join(end.split())
    assert "5 of 10 calls in full" in " ".join(end.split())
    assert "simulated: its bits" in end
    assert told[-1] == f"next: cq report page {record.images_digest[:8]} --records {tmp_path}/records.jsonl"
    for place in (record.thumbnails, record.folders["samples"], record.folders["acceleration"], "records.jsonl"):
        assert str(tmp_path / place) in end or str(tmp_path / "store" / place) in end


def test_scores_against_data_stand_beside_those_of_the_full_precision_images(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    full = execute(*composed(quick(tiny_folder, tmp_path, *OWN)))
    name = next(name for name in full.scores if name.startswith("inception_score"))
    record = execute(*composed(quick(tiny_folder, tmp_path, *OWN, "schedule=uniform")))
    values = [each.scores[name]["value"] for each in (record, full)]
    assert f"{name} {values[0]:.4g} (full precision {values[1]:.4g})" in " ".join(" ".join(caplog.messages).split())
