"""Records of the earlier layout are found again under the names that their questions have today."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cq.run.record import RunRecord
from cq.run.record_file import read
from cq.run.sealed import count_file, seal
from experiments.migrate.records import CHOSEN, LATER, Makers, migrate, old_name

RESULTS = Path(__file__).parents[1] / "results"


def earlier(record: RunRecord) -> dict[str, Any]:
    """As it was written before any of the later groups, times of making and protocols apart."""
    document: dict[str, Any] = json.loads(record.to_json())
    config = document["config"]
    for key in LATER:
        group, _, slot = key.partition(".")
        (config[group] if slot else config).pop(slot or group, None)
    del config["baseline"], document["made"]
    config["logger"]["_target_"] = "cq.tracking.WandbLogger"
    for group in CHOSEN:
        del document["choices"][group]
    return document | {"schema": 1, "config_digest": old_name(config)}


def write(path: Path, documents: list[dict[str, Any]]) -> None:
    lines = [seal(json.dumps(document), before) for before, document in enumerate(documents)]
    path.write_text("".join(f"{line}\n" for line in lines))
    count_file(path).write_text(f"{len(lines)}\n")


def test_a_record_of_the_earlier_layout_becomes_todays(tmp_path: Path) -> None:
    records = [record for record in read(RESULTS / "runs_table5.jsonl") if record.made][:40]
    path = tmp_path / "runs_table5.jsonl"
    write(path, [earlier(record) for record in records])
    for _ in range(2):  # what is written already stays as it is
        migrate([path])
        found = read(path)
        for new, record in zip(found, records, strict=True):
            told = {**json.loads(new.to_json()), "made": record.made}
            assert told == json.loads(record.to_json())
    assert "pixel_rounding" not in path.read_text()
    folders = {file.name for file in tmp_path.iterdir() if file.is_dir()}
    assert folders == {"protocols", "configs"}
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.is_file()) == [".count", ".jsonl"]


def test_a_record_whose_name_says_more_than_its_configuration_is_refused(tmp_path: Path) -> None:
    record = read(RESULTS / "runs_table5.jsonl")[0]
    path = tmp_path / "runs.jsonl"
    write(path, [earlier(record), earlier(record) | {"config_digest": "0" * 20}])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"config_digest='00000000000000000000' of table5/.*run it again"):
        migrate([path])
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b"full precision", b"half precision", 1))
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 1: its checksum does not fit"):
        migrate([path])


def timed(seed: int, schedule: str, seconds: dict[str, float], **changes: Any) -> Mapping[str, Any]:
    """A run that lists these stages in the order in which they ended."""
    artifacts = {"statistics": f"S{seed}", "schedule": schedule, "quant_params": f"Q{schedule}{seed}"}
    found = {stage: digest for stage, digest in artifacts.items() if stage in seconds}
    return {"seed": seed, "seconds": seconds, "artifacts": found, **changes}


def test_what_a_run_found_made_counts_with_the_time_of_its_making() -> None:
    maker = timed(0, "dps", {"load": 3.0, "statistics": 20.0, "schedule": 1.0, "quant_params": 7.0})
    finder = timed(0, "dps", {"schedule": 0.01, "load": 2.0, "quant_params": 0.02})
    other_seed = timed(1, "dps", {"schedule": 0.01, "quant_params": 5.0})
    makers = Makers([finder, maker, other_seed])
    expected = {"statistics": 20.0, "schedule": 1.0, "quant_params": 7.0}
    assert makers.made(maker) == makers.made(finder) == expected
    assert list(makers.made(other_seed)) == ["schedule", "quant_params"]  # nobody says what its seed needed


def test_statistics_that_a_correction_asked_for_do_not_count_for_the_schedule() -> None:
    corrected = {
        "seed": 0, "seconds": {"schedule": 0.0, "load": 1.0, "statistics": 20.0, "cache_correction": 2.0},
        "artifacts": {"schedule": "uniform", "statistics": "S", "cache_correction": "C"},
    }  # fmt: skip
    plain = {"seed": 0, "seconds": {"schedule": 0.0}, "artifacts": {"schedule": "uniform"}}
    again = {"seed": 0, "seconds": {"cache_correction": 0.0}, "artifacts": {"cache_correction": "C"}}
    makers = Makers([plain, corrected, again])
    assert makers.made(plain) == {"schedule": 0.0}
    assert makers.made(again) == {"statistics": 20.0, "cache_correction": 2.0}


def test_what_a_record_says_itself_goes_first_and_a_gap_is_filled_where_another_made_it() -> None:
    old = timed(0, "dps", {"schedule": 1.0})
    said = timed(0, "dps", {"schedule": 0.0}, made={"statistics": 30.0, "schedule": 2.0, "samples": 99.0})
    lent = timed(0, "dps", {"schedule": 0.0}, made={"schedule": None})
    resumed = timed(0, "other", {"schedule": 4.0}, made={"schedule": None})
    makers = Makers([old, said, lent, resumed])
    assert makers.made(said) == said["made"]
    assert makers.made(lent) == {"schedule": 1.0}
    assert makers.made(resumed) == {"schedule": None}
