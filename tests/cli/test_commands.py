"""How commands end: one status and one sentence for a stop, a full disk, no memory, no folder, and our own faults."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from cq.cli import convert
from cq.cli.commands import ended
from cq.core.artifacts import CacheSchedule
from cq.core.failures import writing
from cq.core.store import Store, write_atomically
from cq.models import original
from cq.run.ledger import RunError, execute
from tests.tiny_runs import composed, quick


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "store/samples/x")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("seed=-1: must lie in 0..4095."), 2, "cq: seed=-1: must lie in 0..4095.\n"),
        (FULL, 2, "cq: store/samples/x: No space left on device. Make room, or choose another folder; the same"),
        (
            FileNotFoundError(2, "No such file or directory", "store/x"),
            2,
            "cq: store/x: No such file or directory. Put",
        ),
        (FileNotFoundError(2, "No such file or directory"), 2, "cq: the working folder is gone. Change to one that"),
        (OSError(errno.EROFS, "Read-only file system", "r.jsonl"), 2, "cq: r.jsonl: Read-only file system. Choose a"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "r"), 2, "cq: r: Is a directory. Name a file, in it or"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), 2, "cq: f/x: Not a directory. A file stands"),
        (FileExistsError(errno.EEXIST, "File exists", "f"), 2, "cq: f: File exists. Move what is there, or choose"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "cq: out of memory (DefaultCPU"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, "cq: out of memory (CUDA out of memory. Tried)"),
        (MemoryError(), 1, "cq: out of memory (MemoryError). Lower sample.batch_size, "),
        (KeyboardInterrupt(), 130, "cq: stopped. The same command goes on from here.\n"),
    ],
)
def test_what_ends_a_command_is_one_sentence_and_a_status(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("cq", raising(error)) == status
    message = capsys.readouterr().err
    assert message.startswith(told)
    assert message.count("\n") == 1


def test_a_fault_of_ours_shows_where_it_is_and_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("cq", raising(AttributeError("no such thing"))) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert message.endswith("\ncq: no such thing\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_command_as_ctrl_c_does(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:

        def work() -> int:
            os.kill(os.getpid(), number)
            return 0

        assert ended("cq", work) == 128 + number
        assert capsys.readouterr().err == "cq: stopped. The same command goes on from here.\n"
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert ended("cq", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_writer_names_the_path_whatever_it_raises(tmp_path: Path) -> None:
    path = tmp_path / "x"
    of_safetensors = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (of_safetensors, OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(OSError, match="No space left") as raised, writing(path):
            raise error
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(SafetensorError), writing(path):
        raise SafetensorError("header too large")


FULL_DEVICE = Path("/dev/full")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")
def test_what_a_full_disk_refuses_names_its_path_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a: opened(FULL_DEVICE if path.suffix == ".tmp" else path, *a))
    with pytest.raises(OSError, match="No space left") as raised:
        write_atomically(tmp_path / "shard.safetensors", b"x")
    assert raised.value.filename == str(tmp_path / "shard.safetensors")


def test_a_publication_that_fails_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    store = Store(tmp_path)
    schedule = CacheSchedule(num_calls=2, refresh_calls=(0,), planner="x", interval=2)
    with monkeypatch.context() as patch:
        patch.setattr(CacheSchedule, "save", full)
        with pytest.raises(SafetensorError):
            store.get("schedule", {}, CacheSchedule, lambda _: schedule)
    assert not list((tmp_path / "schedule").glob("*.tmp"))
    assert store.get("schedule", {}, CacheSchedule, lambda _: schedule) == schedule


def test_a_run_whose_failure_cannot_be_recorded_still_says_why_it_failed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr("cq.run.pipeline.run", full)
    monkeypatch.setattr("cq.run.ledger.append", full)
    config, choices = composed(quick(tiny_folder, tmp_path))
    with pytest.raises(RunError, match=r"store/samples/x: No space left on device\. Make room") as raised:
        execute(config, choices)
    assert raised.value.mendable
    assert "The failed run is not in the record file" in caplog.text


def test_a_folder_that_cannot_be_made_is_refused_by_the_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("x")
    Path("m.ckpt").write_text("x")
    monkeypatch.setattr(original, "read_checkpoint", lambda path: {})
    monkeypatch.setattr(original, "convert", lambda *_, **__: {})
    assert convert.main(["ldm_church256", "m.ckpt", "afile/out"]) == 2
    assert capsys.readouterr().err.startswith("cq-convert: folder=afile: cannot be written (a file stands in its")
