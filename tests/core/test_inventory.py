"""What lies in a store is found without reading it, and taken out of it so that a kill does no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cq.core.artifacts import CacheSchedule
from cq.core.inventory import alone_in, entries, is_held, remove
from cq.core.store import Store, locked
from tests.core.test_store import Map, maker


def test_artefacts_and_leftovers_are_told_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.get("stage", {"a": 1}, Map, maker([]))
    (tmp_path / "stage" / f"{'a' * 20}.partial").mkdir()
    (tmp_path / "stage" / f"{'a' * 20}.partial/3.safetensors").write_bytes(b"xxx")
    (tmp_path / "stage" / f"{'b' * 20}.123.tmp").mkdir()
    (tmp_path / "again_0123456789ab").write_text("stage/x\n")
    (tmp_path / "tracking/wandb").mkdir(parents=True)  # of somebody else
    (tmp_path / "stage/notes.txt").write_text("mine")
    whole, *left = sorted(entries(tmp_path), key=lambda entry: not entry.whole)
    assert (whole.stage, whole.digest, whole.key) == ("stage", made.digest, {"a": 1})
    assert set(whole.files) == {"artifact.json", "key.json", "seconds.json", "tensors.safetensors"}
    assert whole.seconds["stage"] >= 0
    names = [f"{'a' * 20}.partial", "again_0123456789ab", f"{'b' * 20}.123.tmp"]
    assert sorted(entry.path.name for entry in left) == names
    assert whole.num_bytes > sum(whole.files.values()) - 1


def test_what_a_killed_run_was_replacing_is_not_offered(tmp_path: Path) -> None:
    Store(tmp_path).get("stage", {}, Map, maker([]))
    (entry,) = entries(tmp_path)
    os.rename(entry.path, entry.path.with_suffix(".old"))  # the moment between two renames: the next run puts it back
    assert entries(tmp_path) == []
    Store(tmp_path).get("stage", {}, Map, lambda _: pytest.fail("it was there"))
    (back,) = entries(tmp_path)
    assert back.path == entry.path


def test_a_held_lock_is_seen_and_an_idle_one_is_not(tmp_path: Path) -> None:
    Store(tmp_path).get("stage", {}, Map, maker([]))
    (entry,) = entries(tmp_path)
    assert not is_held(entry.path)
    with locked(entry.path.with_suffix(".lock")):
        assert is_held(entry.path)
        assert is_held(entry.path.with_suffix(".12.tmp"))
    assert not is_held(entry.path.with_name("c" * 20))


def test_a_store_in_use_is_left_alone_until_its_last_user_is_gone(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    one.get("stage", {}, Map, maker([]))
    two.get("stage", {}, Map, maker([]))
    del one
    with pytest.raises(ValueError, match="a run is using it"), alone_in(tmp_path):
        pass
    del two
    with alone_in(tmp_path):
        pass


def test_a_removal_that_is_killed_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object) -> None:
        raise KeyboardInterrupt

    Store(tmp_path).get("stage", {}, Map, maker([]))
    (entry,) = entries(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cq.core.inventory.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(entry)
    (left,) = entries(tmp_path)
    assert not left.whole
    calls: list[Path] = []
    Store(tmp_path).get("stage", {}, Map, maker(calls))  # made anew
    assert len(calls) == 1
    assert [entry.whole for entry in entries(tmp_path)] == [True]
    remove(entries(tmp_path)[0])
    assert entries(tmp_path) == []
    assert [path.name for path in (tmp_path / "stage").iterdir()] == []


def test_it_is_listed_without_torch_and_without_tensors(tmp_path: Path) -> None:
    Store(tmp_path).get("schedule", {}, CacheSchedule, lambda _: CacheSchedule(
        num_calls=2, refresh_calls=(0,), planner="x", interval=2,
    ))  # fmt: skip
    program = (
        "import sys; from pathlib import Path; from cq.core.inventory import entries; "
        f"print([e.digest for e in entries(Path({str(tmp_path)!r}))], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[entries(tmp_path)[0].digest]} False\n"
