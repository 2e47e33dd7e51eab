"""The store: made once, never half there, and not believed where a byte differs."""

import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import Artifact
from cq.core.store import Store, check_writable, locked, write_atomically


@dataclass(frozen=True, kw_only=True)
class Map(Artifact):
    name: str
    values_N: Tensor


def maker(calls: list[Path], name: str = "map") -> Callable[[Path], Map]:
    def make(shards: Path) -> Map:
        calls.append(shards)
        return Map(name=name, values_N=torch.arange(3.0))

    return make


def one_folder(root: Path, stage: str = "stage") -> Path:
    (folder,) = (path for path in (root / stage).iterdir() if path.is_dir())
    return folder


def test_a_stage_is_made_once_and_then_loaded(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = Store(tmp_path).get("stage", {"a": 1}, Map, maker(calls))
    second = Store(tmp_path).get("stage", {"a": 1}, Map, maker(calls))
    assert len(calls) == 1
    assert second.digest == first.digest
    assert second.values_N.equal(first.values_N)


def test_one_object_reads_an_artefact_once_and_keeps_the_time_of_its_making(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.get("stage", {}, Map, maker([]))
    seconds = dict(store.seconds)
    assert store.get("stage", {}, Map, maker([])) is first
    assert store.seconds == seconds


@pytest.mark.parametrize("other", [("stage", {"a": 2}), ("other", {"a": 1})])
def test_another_stage_or_key_is_another_artefact(tmp_path: Path, other: tuple[str, dict[str, int]]) -> None:
    calls: list[Path] = []
    store = Store(tmp_path)
    store.get("stage", {"a": 1}, Map, maker(calls))
    store.get(*other, Map, maker(calls, "second"))
    assert len(calls) == 2


def test_a_raised_schema_is_another_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    Store(tmp_path).get("stage", {}, Map, maker(calls))
    monkeypatch.setattr(Map, "schema", 2)
    Store(tmp_path).get("stage", {}, Map, maker(calls))
    assert len(calls) == 2


def test_an_interrupted_stage_leaves_its_shards_and_nothing_that_looks_finished(tmp_path: Path) -> None:
    def stopped(shards: Path) -> Map:
        (shards / "first").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get("stage", {}, Map, stopped)
    assert one_folder(tmp_path).suffix == ".partial"

    def resumed(shards: Path) -> Map:
        assert (shards / "first").read_text() == "done"
        return Map(name="map", values_N=torch.zeros(1))

    Store(tmp_path).get("stage", {}, Map, resumed)
    assert one_folder(tmp_path).suffix == ""


def test_what_a_killed_writer_left_is_cleaned_up_by_the_next_one(tmp_path: Path) -> None:
    Store(tmp_path).get("stage", {}, Map, maker([]))
    folder = one_folder(tmp_path)
    calls: list[Path] = []
    for killed_after_publishing in (True, False):
        if not killed_after_publishing:
            shutil.rmtree(folder)
        for left_over in (folder.with_suffix(".partial"), folder.with_suffix(".1.tmp")):
            left_over.mkdir()
            (left_over / "tensors.safetensors").write_bytes(b"half")
        Store(tmp_path).get("stage", {}, Map, maker(calls))
        assert one_folder(tmp_path) == folder
    assert len(calls) == 1


def test_a_changed_byte_anywhere_is_refused_with_the_remedy(tmp_path: Path) -> None:
    Store(tmp_path).get("stage", {"a": 1}, Map, maker([]))
    folder = one_folder(tmp_path)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["artifact.json", "key.json", "seconds.json", "tensors.safetensors"]
    for file in files:
        content = file.read_bytes()
        for place in range(len(content)):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(ValueError, match=f"(?s){folder}.*changed or damaged.*Delete|cannot be read.*Delete"):
                Store(tmp_path).get("stage", {"a": 1}, Map, maker([]))
        file.write_bytes(content)
    Store(tmp_path).get("stage", {"a": 1}, Map, maker([]))


@pytest.mark.parametrize("file", ["artifact.json", "key.json", "tensors.safetensors"])
def test_a_missing_file_is_refused(tmp_path: Path, file: str) -> None:
    Store(tmp_path).get("stage", {}, Map, maker([]))
    (one_folder(tmp_path) / file).unlink()
    with pytest.raises(ValueError, match="Delete"):
        Store(tmp_path).get("stage", {}, Map, maker([]))


def test_two_at_once_make_a_stage_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    started, go_on = threading.Event(), threading.Event()
    calls: list[Path] = []
    results: list[Map] = []

    def slow(shards: Path) -> Map:
        started.set()
        go_on.wait(30)
        return maker(calls)(shards)

    first = threading.Thread(target=lambda: results.append(Store(tmp_path).get("stage", {}, Map, slow)))
    second = threading.Thread(target=lambda: results.append(Store(tmp_path).get("stage", {}, Map, maker(calls))))
    first.start()
    started.wait(30)
    second.start()
    while "another run is at it" not in caplog.text:
        second.join(0.01)
        assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert len(calls) == 1
    assert results[0].digest == results[1].digest


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The store's clock, in seconds, as the test sets it."""
    clock = [0.0]
    monkeypatch.setattr("cq.core.store.time.monotonic", lambda: clock[0])
    return clock


def test_seconds_of_a_stage_leave_out_those_of_the_stages_it_asks_for(tmp_path: Path, now: list[float]) -> None:
    store = Store(tmp_path)

    def inner(_: Path) -> Map:
        now[0] += 5
        return Map(name="inner", values_N=torch.zeros(1))

    def outer(_: Path) -> Map:
        now[0] += 1
        with store.timed("load"):
            now[0] += 10
        store.get("inner", {}, Map, inner)
        now[0] += 2
        return Map(name="outer", values_N=torch.zeros(1))

    store.get("outer", {}, Map, outer)
    store.get("last", {}, Map, inner)
    assert store.seconds == {"load": 10, "inner": 5, "outer": 3, "last": 5}
    assert store.made == {"inner": 5, "outer": 3, "last": 5}
    later = Store(tmp_path)
    later.get("outer", {}, Map, outer)
    assert later.seconds == {"outer": 0}
    assert later.made == {"inner": 5, "outer": 3}


def test_a_stage_asked_for_again_counts_in_the_making_of_whoever_asks(tmp_path: Path, now: list[float]) -> None:
    store = Store(tmp_path)

    def slow(_: Path) -> Map:
        now[0] += 5
        return Map(name="inner", values_N=torch.zeros(1))

    def asking(_: Path) -> Map:
        now[0] += 1
        return store.get("inner", {}, Map, slow)

    store.get("first", {}, Map, asking)
    store.get("second", {}, Map, asking)
    later = Store(tmp_path)
    later.get("second", {}, Map, asking)
    assert later.made == {"inner": 5, "second": 1}


def test_the_time_of_a_resumed_stage_is_not_known(tmp_path: Path) -> None:
    def stopped(shards: Path) -> Map:
        (shards / "first").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get("stage", {}, Map, stopped)
    for _ in range(2):
        store = Store(tmp_path)
        store.get("stage", {}, Map, maker([]))
        assert store.made == {"stage": None}


def test_an_artefact_from_before_times_were_kept_is_read(tmp_path: Path) -> None:
    Store(tmp_path).get("stage", {}, Map, maker([]))
    (one_folder(tmp_path) / "seconds.json").unlink()
    store = Store(tmp_path)
    store.get("stage", {}, Map, maker([]))
    assert store.made == {"stage": None}


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"paths\.store=.*/file: cannot be written .a file stands.* Choose another"):
        check_writable(tmp_path / "file", "paths.store")
    with pytest.raises(ValueError, match=r"paths\.store=.*/file/below: cannot be written .Not a directory"):
        check_writable(tmp_path / "file/below", "paths.store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"paths\.store=.*: cannot be written .Permission denied"):
        check_writable(tmp_path, "paths.store")


def test_a_disk_that_is_too_full_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("cq.core.store.shutil.disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    check_writable(tmp_path, "paths.store", 2**20)
    with pytest.raises(ValueError, match=r"1 MiB are free, this run writes about 2 MiB. Make room"):
        check_writable(tmp_path, "paths.store", 2**21)


def test_looking_whether_a_folder_can_be_written_leaves_nothing_in_it(tmp_path: Path) -> None:
    check_writable(tmp_path / "new", "paths.store")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cq.core.store.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_lock_is_dropped_at_the_end_of_its_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        with locked(tmp_path / "lock"):
            pass
    assert caplog.text == ""


def made(root: Path, again: str, calls: list[str], *, name: str = "map", fail: bool = False) -> Map:
    """A run of two stages, the second of which may be stopped behind its first shard."""
    store = Store(root, again=again)

    def first(_: Path) -> Map:
        calls.append("first")
        return Map(name=name, values_N=torch.arange(3.0))

    def second(shards: Path) -> Map:
        shard = shards / "shard"
        calls.append("second" + " resumed" * shard.exists())
        shard.write_text(name)
        if fail:
            raise KeyboardInterrupt
        return Map(name=shard.read_text(), values_N=torch.ones(1))

    store.get("first", {}, Map, first)
    found = store.get("second", {}, Map, second)
    store.ended_well()
    return found


def test_a_run_that_makes_all_again_takes_nothing_from_before(tmp_path: Path) -> None:
    calls: list[str] = []
    assert made(tmp_path, "", calls).name == "map"
    for name in ("again", "and again"):  # under one name: what ended well is over
        calls.clear()
        assert made(tmp_path, "run", calls, name=name).name == name
        assert calls == ["first", "second"]
        assert made(tmp_path, "", calls).name == name  # what it made is what others find
        assert calls == ["first", "second"]
    left_over = sorted(path.name for path in tmp_path.rglob("*") if path.suffix in (".partial", ".tmp", ".old"))
    assert left_over == []
    assert not list(tmp_path.glob("again_*"))


def test_what_was_there_stays_until_its_successor_is_complete_and_nothing_mixes(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "", calls, name="never finished", fail=True)
    made(tmp_path, "", calls, name="never finished")
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "run", calls, name="new", fail=True)
    assert made(tmp_path, "", calls).name == "never finished"
    assert calls == ["first", "second"]
    calls.clear()
    assert made(tmp_path, "another", calls, name="other").name == "other"  # not from the shards of the one before
    assert calls == ["first", "second"]


def test_a_run_that_makes_all_again_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    calls: list[str] = []
    made(tmp_path, "", calls)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "run", calls, name="new", fail=True)
    calls.clear()
    assert made(tmp_path, "run", calls, name="new").name == "new"
    assert calls == ["second resumed"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_between_old_and_new_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    made(tmp_path, "", [], name="old")
    rename, left = os.rename, [renames]

    def killed(*paths: Path) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("cq.core.store.os.rename", killed)
        patch.setattr("cq.core.store.shutil.rmtree", lambda *_, **__: killed())
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, "run", [], name="new")
    assert one_folder_of(tmp_path, Store(tmp_path)).name == ("old" if renames == 1 else "new")
    assert made(tmp_path, "run", [], name="new").name == "new"


def one_folder_of(root: Path, store: Store) -> Map:
    return store.get("first", {}, Map, lambda _: Map(name="made", values_N=torch.zeros(1)))
