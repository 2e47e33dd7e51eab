"""W&B: a run is there while it goes; offline it has everything, online without a network it gives up soon, and it never
costs a result."""

import fcntl
import io
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cq.run import wandb_run
from cq.run.ledger import RunError, execute
from cq.run.record import RunRecord
from cq.run.tracking import NO_LOG, NoLogger, WandbLogger
from tests.report.synthetic import record, score, strip
from tests.tiny_runs import composed, quick

BLOCK, HEADER = 32768, 7  # of LevelDB's log format, in which W&B writes its runs


def entries(path: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, held = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        held += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield held
            held = b""


def logged(folder: Path) -> dict[str, Any]:
    """Name, group, tags, config, summary and history of the only run under `folder`."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service has then written everything
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    out: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "folder": file.parent}
    for content in entries(file):
        entry = Record.FromString(content)
        kind = entry.WhichOneof("record_type")
        if kind == "run":
            out |= {"name": entry.run.display_name, "group": entry.run.run_group, "project": entry.run.project}
            out["tags"] = set(entry.run.tags)
            out["config"] |= {item.key: json.loads(item.value_json) for item in entry.run.config.update}
        elif kind == "summary":
            for item in entry.summary.update:
                out["summary"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "exit":
            out["exit_code"] = entry.exit.exit_code
        elif kind == "history":
            items = entry.history.item
            out["history"].append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return out


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's: no key, no settings, no server."""
    import wandb

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "_unreachable", [])
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """A run with two scores that are known by call."""
    strip(tmp_path / "strip.png", shade=1)
    scores = {
        "latent_error_fp": score(0.5, curve=[0.0, 0.25, 0.5]),
        "other_fp": score(0.75, curve=[0.0, 0.5, 0.75]),
        "frechet_own": score(10.0),
    }
    return record(
        scores=scores, config={"budget": {"num_steps": 10}, "seed": 3}, seed=3, thumbnails="strip.png",
        measured={"seconds_per_image": 0.5, "peak_mem_mib": 1.0, "device": "cpu"}, executed="Int8",
    )  # fmt: skip


def log_run(run: RunRecord, folder: Path, mode: Any = None) -> float:
    started = time.monotonic()
    with WandbLogger(project="cq", mode=mode).run(vars(run), folder, folder / "tracking") as live:
        live.finish(run)
    return time.monotonic() - started


def test_an_offline_run_holds_config_scores_curves_table_and_images(run: RunRecord, tmp_path: Path) -> None:
    log_run(run, tmp_path)
    found = logged(tmp_path / "tracking")
    assert found["folder"].name.startswith("offline-run-")
    assert (found["name"], found["group"], found["project"]) == ("synthetic row, seed 3", "table5", "cq")
    assert found["tags"] >= {"schedule=uniform", "quantize=ptq", "N=20", "W8A8"}
    assert found["config"].items() >= {"schedule": "uniform", "cache_interval": 20, "seed": 3}.items()
    assert found["config"]["resolved"] == run.config
    assert found["summary"]["frechet_own"] == 10.0
    assert found["summary"]["counted/macs_full"] == 10_000_000
    assert found["summary"]["measured/seconds_per_image"] == 0.5
    assert found["summary"]["images_digest"] == run.images_digest
    curves = [(row["call"], row["by_call/latent_error_fp"], row["by_call/other_fp"]) for row in found["history"][:3]]
    assert curves == [(0, 0.0, 0.0), (1, 0.25, 0.5), (2, 0.5, 0.75)]
    last = found["history"][-1]
    image = found["folder"] / "files" / last["images/path"]
    assert image.read_bytes() == (tmp_path / "strip.png").read_bytes()
    table = json.loads((found["folder"] / "files" / last["scores/path"]).read_text())
    assert table["columns"][:2] == ["metric", "value"]
    assert {row[0]: row[1] for row in table["data"]} == {"latent_error_fp": 0.5, "other_fp": 0.75, "frechet_own": 10.0}


def test_a_run_whose_strip_was_not_kept_is_logged_without(run: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "strip.png").unlink()
    log_run(run, tmp_path)
    last = logged(tmp_path / "tracking")["history"][-1]
    assert "scores/path" in last
    assert "images/path" not in last


def test_a_table_run_holds_every_config_the_table_and_the_figures(run: RunRecord, tmp_path: Path) -> None:
    files = []
    for name in ("tables/table5.md", "tables/table5.csv", "figures/table5_error.png", "figures/table5_error.svg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("row,FID\nours,1\n")
        files.append(path)
    strip(tmp_path / "figures/table5_error.png", shade=2)
    other = record("other", config={"seed": 4}, seed=4)
    logger = WandbLogger(project="cq", mode=None)
    logger.log_table("table5", [run, other], tuple(files), tmp_path / "tracking")
    found = logged(tmp_path / "tracking")
    assert (found["name"], found["group"]) == ("table5", "table5")
    assert found["config"]["synthetic row, seed 3"]["schedule"] == "uniform"
    assert found["config"]["other, seed 4"]["seed"] == 4
    rows = {key: value for row in found["history"] for key, value in row.items() if key.endswith("/path")}
    assert set(rows) == {"table5/path", "table5_error/path"}
    table = json.loads((found["folder"] / "files" / rows["table5/path"]).read_text())
    assert (table["columns"], table["data"]) == (["row", "FID"], [["ours", "1"]])
    image = found["folder"] / "files" / rows["table5_error/path"]
    assert image.read_bytes() == (tmp_path / "figures/table5_error.png").read_bytes()


class Terminal(io.StringIO):
    """Says it is one, and must not be asked."""

    def isatty(self) -> bool:
        return True

    def read(self, *_: object) -> str:
        raise AssertionError("the user was asked for input")

    readline: Any = read


@pytest.mark.parametrize("key", [None, "0" * 40, "too short"])
def test_online_without_a_server_logs_offline_soon_and_asks_nothing(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str | None
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_run, "ONLINE_SECONDS", 2.0)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert log_run(run, tmp_path) < 30
    assert "W&B cannot be reached" in caplog.text
    assert "wandb sync" in caplog.text
    assert isinstance(sys.stdin, Terminal)
    (offline,) = (tmp_path / "tracking/wandb").glob("offline-run-*")
    assert any((offline / "files/media/images").iterdir())
    # the next run of the same process does not wait again
    started = time.monotonic()
    monkeypatch.setattr("wandb.init", lambda mode, **_: pytest.fail("tried again") if mode == "online" else Ended())
    log_run(run, tmp_path)
    assert time.monotonic() - started < 2.0


class Ended:
    """A W&B run that takes everything."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}

    def log(self, _: object) -> None:
        """Nothing."""

    def finish(self, **_: object) -> None:
        """Nothing."""


def test_a_failure_of_wandb_is_a_warning(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise wandb.errors.CommError("the service is gone")

    monkeypatch.setattr("wandb.init", broken)
    log_run(run, tmp_path)
    assert "the service is gone" in caplog.text
    assert "nothing is lost" in caplog.text


def test_what_a_kill_left_open_is_finished_by_the_next_command(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "tracking"
    with monkeypatch.context() as patch:
        patch.setattr(wandb_run, "fill_run", killed)
        with pytest.raises(KeyboardInterrupt):
            log_run(run, tmp_path)
    assert "frechet_own" not in logged(folder)["summary"]
    (left_open,) = folder.glob("open_*.json")
    with left_open.open() as held:  # as by a command that is alive
        fcntl.flock(held, fcntl.LOCK_EX)
        WandbLogger(project="cq", mode=None).finish_open(folder)
    assert "frechet_own" not in logged(folder)["summary"]
    WandbLogger(project="cq", mode=None).finish_open(folder)
    assert logged(folder)["summary"]["frechet_own"] == 10.0  # the only run: in the place of the one begun
    assert not left_open.exists()


def test_a_mode_that_is_none_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ValueError, match="WANDB_MODE='onlin': must be one of online, offline, disabled"):
        WandbLogger(project="cq", mode=None)
    WandbLogger(project="cq", mode="offline")
    monkeypatch.setenv("WANDB_MODE", "dryrun")  # what W&B called it before
    assert WandbLogger(project="cq", mode=None)._mode == "offline"


def test_an_empty_variable_is_no_mode(run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    log_run(run, tmp_path)
    assert logged(tmp_path / "tracking")["summary"]["frechet_own"] == 10.0


def test_no_logger_writes_nothing(run: RunRecord, tmp_path: Path) -> None:
    with NoLogger().run(vars(run), tmp_path, tmp_path / "tracking") as live:
        live.finish(run)
    NoLogger().log_table("table5", [run], (), tmp_path / "tracking")
    assert not (tmp_path / "tracking").exists()


# While a run goes.


@pytest.fixture
def offline() -> WandbLogger:
    return WandbLogger(project="cq", mode=None)


def said(found: dict[str, Any], key: str) -> list[Any]:
    """What the history has of it, in order."""
    return [row[key] for row in found["history"] if key in row]


def test_a_run_says_stages_images_and_scores_as_they_come_and_is_the_same_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = quick(tiny_folder, tmp_path, "experiment=table5/cache_dps", "budget.num_steps=4")
    monkeypatch.setattr(wandb_run, "PROGRESS_SECONDS", 0.0)
    made = execute(*composed([*arguments, "logger=wandb"]), arguments)
    found = logged(tmp_path / "wandb")
    assert found["name"].endswith(", seed 0")
    assert found["tags"] >= {"schedule=dps", "N=2"}
    assert found["config"]["resolved"]["budget"]["num_steps"] == 4
    for stage in made.artifacts:
        assert said(found, f"stage/{stage}") == ["begun", "done"]
        assert said(found, f"seconds/{stage}") == [pytest.approx(made.seconds[stage], abs=1e-3)]
    for drawn in ("samples", "samples_full_precision"):
        assert said(found, f"{drawn}/images") == [0.5 * call for call in range(1, 9)]  # 4 images of 4 calls, by twos
        assert set(said(found, f"{drawn}/of")) == {4}
        assert min(said(found, f"{drawn}/images_per_second")) > 0
    orders = [next(i for i, row in enumerate(found["history"]) if key in row) for key in
              ("stage/schedule", "samples/images", "psnr_fp_db", "scores/path")]  # fmt: skip
    assert orders == sorted(orders)
    assert said(found, "psnr_fp_db") == [made.scores["psnr_fp_db"]["value"]] == [found["summary"]["psnr_fp_db"]]
    assert found["summary"]["status"] == "ok"
    assert not list((tmp_path / "wandb").glob("open_*"))

    monkeypatch.setattr(wandb_run, "PROGRESS_SECONDS", 1000.0)
    again = execute(*composed([*arguments, "logger=wandb", f"paths.records={tmp_path}/again.jsonl"]), arguments)
    found = logged(tmp_path / "wandb")  # one question is one run, here in the place of the one before
    assert said(found, "stage/samples") == ["begun", "found"]
    assert said(found, "samples/images") == []

    other = [*arguments, "logger=none", f"paths.store={tmp_path}/other", f"paths.records={tmp_path}/other.jsonl"]
    silent = execute(*composed(other), arguments)
    assert (silent.images_digest, silent.artifacts, silent.scores, silent.config_digest) == (
        made.images_digest, made.artifacts, made.scores, made.config_digest,
    )  # fmt: skip
    assert (again.images_digest, again.scores) == (made.images_digest, made.scores)


def test_a_killed_run_is_the_same_run_of_wandb_when_its_command_goes_on(
    run: RunRecord, tmp_path: Path, offline: WandbLogger
) -> None:
    folder = tmp_path / "tracking"
    pid = os.fork()
    if not pid:
        try:
            with offline.run(vars(run), tmp_path, folder) as live:
                live.stage("samples", "begun", None)
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    (left_open,) = folder.glob("open_*.json")
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    offline.finish_open(folder)  # of another command: only its own makes all of it
    assert left_open.exists()
    with offline.run(vars(run), tmp_path, folder) as live:
        with offline.run(vars(run), tmp_path, folder) as beside:  # somebody asks the same while it goes
            assert beside is NO_LOG
        offline.finish_open(folder, run)
        assert left_open.exists()
        live.finish(run)
    assert not left_open.exists()
    found = logged(folder)  # which is the only one
    assert found["summary"]["frechet_own"] == 10.0
    assert "stage/samples" not in found["summary"]


def test_an_answer_whose_end_was_not_written_down_is_logged_when_it_is_found(
    run: RunRecord, tmp_path: Path, offline: WandbLogger
) -> None:
    folder = tmp_path / "tracking"
    with pytest.raises(KeyboardInterrupt), offline.run(vars(run), tmp_path, folder):
        raise KeyboardInterrupt
    assert logged(folder)["summary"]["status"] == "stopped"
    offline.finish_open(folder, run)
    found = logged(folder)
    assert found["summary"]["frechet_own"] == 10.0
    assert any("images/path" in row for row in found["history"])
    assert not list(folder.glob("open_*"))


def test_a_failed_run_has_failed_in_wandb_with_its_reason(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the sampler broke")

    monkeypatch.setattr("cq.run.pipeline.run", broken)
    with pytest.raises(RunError):
        execute(*composed(quick(tiny_folder, tmp_path, "logger=wandb")))
    found = logged(tmp_path / "wandb")
    assert found["summary"] | {"status": "failed", "reason": "single run: the sampler broke"} == found["summary"]
    assert found["exit_code"] == 1
    assert not list((tmp_path / "wandb").glob("open_*"))


class Deaf(Ended):
    """A W&B run whose service dies."""

    def log(self, _: object) -> None:
        raise BrokenPipeError("the service is gone")


def test_wandb_may_die_while_a_run_goes(
    run: RunRecord, tmp_path: Path, offline: WandbLogger, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("wandb.init", lambda **_: Deaf())
    with offline.run(vars(run), tmp_path, tmp_path / "tracking") as live:
        for images in (0, 1, 2):
            live.progress("samples", images, 2)
            live.stage("samples", "done", 1.0)
        live.finish(run)
    assert caplog.text.count("the service is gone") == 1


def test_progress_is_said_every_few_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 images a second by a clock that a call moves by a hundredth."""
    entries: list[dict[str, Any]] = []
    ended = Ended()
    monkeypatch.setattr(ended, "log", entries.append)
    live = wandb_run.WandbRun(lambda: ended)
    for call in range(1201):
        monkeypatch.setattr("cq.run.wandb_run.time.monotonic", lambda call=call: 50 + call / 100)
        live.progress("samples", call * 10, 12_000)
    assert [entry["samples/images"] for entry in entries] == [5000, 10_000, 12_000]
    assert {round(entry["samples/images_per_second"]) for entry in entries} == {1000}
