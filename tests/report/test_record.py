"""Records survive a round trip, refuse what does not belong in them, and their file survives a killed writer."""

import hashlib
import json
import logging
import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cq.run.record import RunRecord, latest
from cq.run.record_file import append, read, reseal
from cq.run.sealed import count_file, seal, unsealed
from tests.report.synthetic import record, score


def test_a_record_survives_json() -> None:
    full = record(measured=None, scores={"psnr_fp_db": score(float("inf"), better="up", curve=[1.0, float("nan")])})
    back = RunRecord.from_json(full.to_json())
    assert back.to_json() == full.to_json()
    assert back.scores["psnr_fp_db"]["value"] == float("inf")
    assert "Infinity" not in full.to_json()
    assert "NaN" not in full.to_json()


def test_a_record_of_before_a_field_was_kept_is_read() -> None:
    document = json.loads(
        record(overrides=("schedule=dps",), store="store", folders={"schedule": "schedule/a"}).to_json()
    )
    assert RunRecord.from_json(json.dumps(document)).overrides == ("schedule=dps",)
    for name in ("overrides", "store", "folders", "executed"):
        del document[name]
    del document["choices"]["engine"]
    earlier = RunRecord.from_json(json.dumps(document))
    assert (earlier.overrides, earlier.store, dict(earlier.folders), earlier.executed) == ((), "", {}, "")
    assert earlier.choices["engine"] == "simulate"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"unknown keys \['extra'\]"),
        ({"label": None}, r"missing keys \['label'\]"),
        ({"schema": 7}, r"schema=7: this version reads schema 2"),
        ({"seed": "0"}, r"seed='0': is a str"),
        ({"row": True}, r"row=True: is a bool"),
        ({"overrides": "schedule=dps"}, r"overrides='schedule=dps': is a str"),
        ({"folders": [1]}, r"folders=\[1\]: is a list"),
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


def test_real_low_bit_kernels_may_be_timed() -> None:
    timed = {"seconds_per_image": 1.0, "peak_mem_mib": 1.0, "device": "x"}
    assert record(measured=timed, executed="Int8").measured == timed


@pytest.fixture
def three(tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl"
    for seed in range(3):
        append(record(seed=seed), path)
    return path


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
    append(record(seed=0), path)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert [found.seed for found in read(path)] == [0]
    append(record(seed=1), path)
    assert [found.seed for found in read(path)] == [0, 1]


def test_every_changed_bit_is_found_and_its_line_named(three: Path) -> None:
    whole, draw = three.read_bytes(), random.Random(0)
    for place in [draw.randrange(len(whole)) for _ in range(400)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        three.write_bytes(damaged)
        line = 1 + whole[:place].count(b"\n")
        with pytest.raises(ValueError, match=rf"runs\.jsonl, line {line}: .* cq-report --seal"):
            read(three)


def test_lines_with_blanks_of_an_earlier_version_are_read_and_found_changed(three: Path) -> None:
    now, spaced = read(three), []
    for before, line in enumerate(three.read_text().splitlines()):
        body = f'{json.dumps(json.loads(unsealed(line)))[:-1]}, "before": {before}'
        spaced.append(f'{body}, "checksum": "{hashlib.sha256(body.encode()).hexdigest()[:16]}"}}\n')
    three.write_text("".join(spaced))
    assert read(three) == now
    three.write_text("".join(spaced).replace('"note": ""', '"note": "x"', 1))
    with pytest.raises(ValueError, match="line 1: its checksum does not fit"):
        read(three)


@pytest.mark.parametrize("alone", [False, True], ids=["beside its count", "a copy"])
def test_every_cut_is_found(three: Path, alone: bool) -> None:
    whole, draw = three.read_bytes(), random.Random(0)
    ends = [place for place, byte in enumerate(whole, 1) if byte == ord("\n")][:-1]
    cuts = [draw.randrange(1, len(whole) - 1) for _ in range(60)]
    if alone:  # between two lines a copy without its count shows nothing
        count_file(three).unlink()
        cuts = [cut for cut in cuts if not {cut, cut + 1} & set(ends)]
    else:
        cuts += [0, *ends]
    for cut in cuts:
        three.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="line [123]: " if alone else "are lost"):
            read(three)


def test_lost_repeated_and_moved_lines_are_found(three: Path) -> None:
    first, second, third = three.read_bytes().splitlines(keepends=True)
    for lines, named in (
        ([second, third], 1), ([first, third], 2), ([first, first, second, third], 2), ([first, third, second], 2),
        ([first, b"\n", second, third], 2),
    ):  # fmt: skip
        three.write_bytes(b"".join(lines))
        with pytest.raises(ValueError, match=rf"runs\.jsonl, line {named}: "):
            read(three)
    three.write_bytes(first + second)
    with pytest.raises(ValueError, match=r"holds 2 records.*that 3 were written: the last 1 are lost"):
        read(three)
    append(record(seed=3), three)  # of a run that was at work meanwhile
    with pytest.raises(ValueError, match="the last 1 are lost"):
        read(three)


def test_a_broken_count_is_refused_before_a_line_is_written(three: Path) -> None:
    whole = three.read_bytes()
    count_file(three).write_bytes(b"\xff\xfe")
    for ask in (lambda: append(record(seed=3), three), lambda: read(three)):
        with pytest.raises(
            ValueError, match=r"runs\.jsonl\.count: is not the number of lines in runs\.jsonl\. Delete it\."
        ):
            ask()
    assert three.read_bytes() == whole
    count_file(three).unlink()  # as it says
    append(record(seed=3), three)
    assert [found.seed for found in read(three)] == [0, 1, 2, 3]


def test_who_deletes_the_file_begins_anew(three: Path) -> None:
    three.unlink()
    append(record(seed=5), three)
    assert [found.seed for found in read(three)] == [5]


def test_an_edit_on_purpose_is_sealed_anew(three: Path) -> None:
    records, lines = read(three), three.read_text().splitlines(keepends=True)
    three.write_text("".join([lines[0], lines[2].replace('"note":""', '"note":"seen"')]))
    with pytest.raises(ValueError, match="line 2"):
        read(three)
    assert reseal(three) == 2
    assert read(three) == [records[0], replace(records[2], note="seen")]
    three.write_text(lines[0] + "{}\n")
    with pytest.raises(ValueError, match=r"line 2: schema=None"):
        reseal(three)
    assert three.read_text() == lines[0] + "{}\n"


def test_lines_without_a_seal_are_refused_until_they_have_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(record(seed=0).to_json() + "\n" + record(seed=1).to_json() + "\n")
    with pytest.raises(ValueError, match=r"line 1: carries no checksum.*cq-report --seal"):
        read(path)
    reseal(path)
    assert [found.seed for found in read(path)] == [0, 1]


def test_records_of_an_earlier_layout_are_refused_with_the_way_to_todays(three: Path) -> None:
    earlier = [unsealed(line).replace('"schema":2', '"schema":1') for line in three.read_text().splitlines()]
    three.write_text("".join(f"{seal(line, before)}\n" for before, line in enumerate(earlier)))
    for ask in (read, reseal):
        with pytest.raises(ValueError, match=r"runs\.jsonl, line 1: schema=1: .*experiments/migrate") as refused:
            ask(three)
        assert "--seal" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such record file"):
        read(tmp_path / "absent.jsonl")


def test_a_protocol_is_kept_once_beside_the_file_and_joined_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    runs = [
        record(scores={"a": score(1.0, guidance=3.0), "b": score(2.0, guidance=1.5)}),
        record(seed=1, scores={"a": score(3.0, guidance=3.0)}),
    ]
    for run in runs:
        append(run, path)
    assert read(path) == runs
    names = {f"{each['fingerprint']}.json" for run in runs for each in run.scores.values()}
    assert {file.name for file in (tmp_path / "protocols").iterdir()} == names
    assert len(names) == 2
    assert "guidance" not in path.read_text()
    assert reseal(path) == 2
    assert read(path) == runs


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("3.0", "3.5", "was changed after"), ("}", "", "cannot be read"), ("", None, "is not there")],
)
def test_a_record_without_its_protocol_is_refused(tmp_path: Path, old: str, new: str | None, said: str) -> None:
    path = tmp_path / "runs.jsonl"
    append(record(), path)
    append(record(seed=1, scores={"a": score(1.0, guidance=3.0)}), path)
    file = tmp_path / "protocols" / f"{score(1.0, guidance=3.0)['fingerprint']}.json"
    text = file.read_text()
    file.unlink() if new is None else file.write_text(text.replace(old, new))
    for ask in (read, reseal):
        with pytest.raises(ValueError, match=rf"runs\.jsonl, line 2: .*{said}.*goes with its record files") as refused:
            ask(path)
        assert "--seal" not in str(refused.value)  # which would not help
    file.write_text(text)
    assert len(read(path)) == 2


def test_long_groups_of_a_configuration_are_kept_once_beside_the_file_and_joined_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    long = {"_target_": "cq.a.Long", **{f"key{index}": index for index in range(30)}}
    runs = [record(seed=seed, config={"model": long, "seed": seed, "cache": {"_target_": "b"}}) for seed in (0, 1)]
    for run in runs:
        append(run, path)
    assert read(path) == runs
    (file,) = (tmp_path / "configs").iterdir()
    assert "key7" not in path.read_text()
    assert '"cache":{"_target_":"b"}' in path.read_text()
    text = path.read_text()
    assert reseal(path) == 2
    assert path.read_text() == text
    file.write_text(file.read_text().replace("29", "28"))
    with pytest.raises(ValueError, match=r"line 1: its configuration names the group .* was changed after"):
        read(path)


def test_a_protocol_under_a_wrong_name_is_not_written(tmp_path: Path) -> None:
    wrong = {"a": {**score(1.0), "fingerprint": score(1.0, guidance=3.0)["fingerprint"]}}
    with pytest.raises(ValueError, match="Name its own"):
        append(record(scores=wrong), tmp_path / "runs.jsonl")
    assert not (tmp_path / "runs.jsonl").exists()


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


def test_an_attempt_that_failed_takes_no_good_record_back() -> None:
    good = record()
    failed = replace(good, status="failed", note="broke")
    assert latest([good, failed]) == [good]
    assert latest([failed, good, failed]) == [good]
    assert latest([failed, replace(failed, note="again")]) == [replace(failed, note="again")]
    other = replace(failed, model={**good.model, "weights_digest": "f" * 64})
    assert latest([good, other]) == [other]  # another question, whose answer before says nothing


def _append_some(path: Path, start: int) -> None:
    for seed in range(start, start + 20):
        append(record(seed=seed), path)
