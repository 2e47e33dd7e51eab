"""W&B: offline it has everything, online without a network it gives up soon, and it never costs a result."""

import fcntl
import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cq.run import tracking
from cq.run.record import RunRecord
from cq.run.tracking import NoLogger, WandbLogger
from tests.report.synthetic import record, score, strip

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
    monkeypatch.setattr(tracking, "_unreachable", [])
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
    WandbLogger(project="cq", mode=mode).log_run(run, folder / run.thumbnails, folder / "tracking")
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
    monkeypatch.setattr(tracking, "ONLINE_SECONDS", 2.0)
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

    def finish(self) -> None:
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
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "tracking"
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_fill_run", killed)
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
    NoLogger().log_run(run, tmp_path / "strip.png", tmp_path / "tracking")
    NoLogger().log_table("table5", [run], (), tmp_path / "tracking")
    assert not (tmp_path / "tracking").exists()
