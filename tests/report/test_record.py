"""Records survive a round trip, refuse what does not belong in them, and their file survives a killed writer."""

import json
import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cq.record import RunRecord, append, latest, read
from tests.report.synthetic import record, score


def test_a_record_survives_json() -> None:
    full = record(measured=None, scores={"psnr_fp_db": score(float("inf"), better="up", curve=[1.0, float("nan")])})
    back = RunRecord.from_json(full.to_json())
    assert back.to_json() == full.to_json()
    assert back.scores["psnr_fp_db"]["value"] == float("inf")
    assert "Infinity" not in full.to_json()
    assert "NaN" not in full.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"label": None}, r"missing keys \['label'\]"),
        ({"schema": 7}, r"schema=7: this version reads schema 1"),
        ({"seed": "0"}, r"seed='0': is a str"),
        ({"row": True}, r"row=True: is a bool"),
        ({"status": "fine"}, r"status='fine': must be one of"),
        ({"status": "failed"}, r"say why in `note`"),
        ({"budget": {"num_steps": 3}}, r"budget: missing keys"),
        ({"counted": {}}, r"counted: missing keys"),
        ({"scores": {"fid": {"value": 1.0}}}, r"scores\['fid'\]: missing keys"),
        ({"scores": {"fid": {**score(1.0), "better": "lower"}}}, r"must be one of \['down', 'up'\]"),
        ({"measured": {"seconds_per_image": 1.0, "peak_mem_mib": 1.0, "device": "x"}}, "fake quantization is never"),
    ],
)
def test_a_broken_record_is_refused_with_its_key(change: dict[str, Any], message: str) -> None:
    document = json.loads(record().to_json())
    for key, value in change.items():
        if key == "label":
            del document[key]
        else:
            document[key] = value
    with pytest.raises(ValueError, match=message):
        RunRecord.from_json(json.dumps(document))


def test_a_record_from_before_the_times_of_making_were_kept_is_read() -> None:
    document = json.loads(record().to_json())
    del document["made"]
    assert RunRecord.from_json(json.dumps(document)).made == {}


def test_real_low_bit_kernels_may_be_timed() -> None:
    timed = {"seconds_per_image": 1.0, "peak_mem_mib": 1.0, "device": "x", "kernels": "synthetic int8"}
    assert record(measured=timed).measured == timed


def test_appended_records_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    for seed in range(3):
        append(record(seed=seed), path)
    assert [found.seed for found in read(path)] == [0, 1, 2]


def test_a_torn_last_line_is_dropped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "runs.jsonl"
    append(record(seed=0), path)
    whole = path.read_bytes()
    path.write_bytes(whole + record(seed=1).to_json().encode()[:200])
    with caplog.at_level(logging.WARNING):
        assert [found.seed for found in read(path)] == [0]
        assert "200 characters that a killed run left unfinished" in caplog.text
        caplog.clear()
        append(record(seed=2), path)
        assert "dropped its last line, 200 bytes" in caplog.text
    assert path.read_bytes().startswith(whole)
    assert [found.seed for found in read(path)] == [0, 2]


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(record(seed=0).to_json())
    assert [found.seed for found in read(path)] == [0]
    append(record(seed=1), path)
    assert [found.seed for found in read(path)] == [0, 1]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(record().to_json() + '\n{"schema": 1\n' + record().to_json() + "\n")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2: not a JSON object"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such record file"):
        read(tmp_path / "absent.jsonl")


def test_parallel_writers_never_mix_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_some, args=(path, start)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(found.seed for found in read(path)) == [*range(20), *range(100, 120)]


def test_later_records_replace_earlier_ones_of_the_same_key() -> None:
    first, other = record(note="first"), record(seed=1)
    again, changed = replace(first, note="again"), replace(first, config_digest="f" * 64)
    assert latest([first, other, again, changed]) == [again, other, changed]


def _append_some(path: Path, start: int) -> None:
    for seed in range(start, start + 20):
        append(record(seed=seed), path)
