"""`cq doctor`: what is in place and what is not, each problem with its remedy, at once and touching nothing."""

import os
import subprocess
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

from cq.cli.doctor import main
from cq.core.acceleration import Acceleration
from cq.run import selftest
from cq.run.health import choices_of, fault_here, findings
from cq.run.selftest import SCHEDULE


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)


def found(name: str) -> Any:
    """The first finding of that name that is not good, else the first of that name."""
    named = [each for each in findings(Path("runs/store")) if each.name == name]
    return next((each for each in named if each.state != "ok"), named[0])


def test_on_a_sound_machine_there_is_no_problem_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "weights found: ddpm_mini, dit_mini, ldm_mini, ldm_uncond_mini, sd_mini\n" in told
    assert "no weights here: ddpm_cifar10," in told
    assert "frechet_own" in told
    assert "No problem. cq doctor --thorough" in told
    assert max(map(len, told.splitlines())) <= 120
    assert list(tmp_path.iterdir()) == []


def test_it_needs_neither_torch_nor_what_asks_the_hub(tmp_path: Path) -> None:
    program = (
        "import sys; from cq.cli.main import main; status = main(['doctor'])\n"
        "print(status, sorted({'torch', 'diffusers', 'wandb', 'httpx', 'requests'} & {*sys.modules}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("\n0 []\n")


def test_another_version_than_is_asked_for_is_a_problem_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(name: str) -> str:
        if name == "datasets":
            raise PackageNotFoundError(name)
        return "0.99.1" if name == "diffusers" else version(name)

    monkeypatch.setattr("cq.run.health.version", other)
    assert main([]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "PROBLEM packages diffusers 0.99.1 (asked: <0.44,>=0.36). Install what cq needs" in told
    assert "datasets is not here. For what needs it: pip install 'cq[prompts]'" in told
    assert "1 problems." in told


def test_missing_and_damaged_weights_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.models.locate.WEIGHTS", tmp_path)
    (tmp_path / "ldm_mini").mkdir()
    (tmp_path / "ldm_mini/x.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "x.safetensors is a git-lfs pointer" in found("model ldm_mini").said
    assert found("model sd_mini").said == "zoo:sd_mini: is not there"
    assert found("judge frechet_own").state == "problem"
    (tmp_path / "mine").mkdir()
    assert fault_here(str(tmp_path / "mine")) is None
    assert fault_here(str(tmp_path / "other")) == "is not there"


def test_a_model_in_the_hubs_cache_is_found_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    reference = "hub:google/ddpm-cifar10-32@main"
    assert fault_here(reference) == "is not in the hub's cache"
    repository = tmp_path / "hub/models--google--ddpm-cifar10-32"
    snapshot = repository / "snapshots/0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    (snapshot / "model_index.json").write_text('{"scheduler": ["diffusers", "DDPMScheduler"]}')
    assert fault_here(reference) == "is not in the hub's cache"  # a download that was killed
    (snapshot / "scheduler").mkdir()
    (snapshot / "scheduler/scheduler_config.json").write_text("{}")
    assert fault_here(reference) is None


def test_a_disk_that_is_full_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("cq.core.store.shutil.disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    disk = found("disk")
    assert disk.state == "problem"
    assert "1 MiB are free" in disk.said
    assert disk.remedy.startswith("Make room.")


@pytest.mark.parametrize(
    ("mode", "key", "state", "said"),
    [
        ("", "", "ok", "offline; WANDB_MODE=online"), ("online", "", "problem", "without a key"),
        ("online", "k", "ok", "online"), ("dryrun", "", "ok", "offline"), ("onlin", "", "problem", "is no mode"),
    ],
)  # fmt: skip
def test_the_mode_of_wandb(
    mode: str, key: str, state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("WANDB_MODE", mode), ("WANDB_API_KEY", key)):
        monkeypatch.setenv(name, value)  # an empty one says nothing
    told = found("W&B")
    assert told.state == state
    assert said in told.said


@pytest.mark.parametrize(("built_for", "state"), [("'13.0'", "ok"), ("None", "problem")])
def test_a_gpu_needs_a_pytorch_for_it(
    built_for: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(0o755)
    (tmp_path / "version.py").write_text(f"cuda: Optional[str] = {built_for}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = namedtuple("spec", "origin")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: spec(str(tmp_path / "__init__.py")))
    device = found("device")
    assert device.state == state
    assert "NVIDIA H100, 81559 MiB" in device.said


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_the_instruction_set_is_the_one_that_pytorch_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f", {torch.backends.cpu.get_cpu_capability()}, " in found("CPU").said
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert ", AVX2, " in found("CPU").said


def test_every_engine_is_tried_on_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.engine.compiled.compiled", lambda denoiser, **_: denoiser)  # which takes a minute
    told = {finding.name: finding for finding in selftest._engines()}
    assert set(told) == {f"engine {name}" for name in choices_of("engine")}
    assert all(finding.state == "ok" for finding in told.values()), told
    assert told["engine plain"].said == "full precision: bit for bit"
    assert "low bits: " in told["engine simulate"].said


@pytest.mark.parametrize(
    ("scale", "state"), [(1.0, "ok"), (1.2, "problem"), (float("nan"), "problem"), (0.0, "problem")]
)
def test_an_engine_that_computes_something_else_is_a_problem(scale: float, state: str) -> None:
    class Off:
        def check(self, *, quantized: bool) -> None:
            pass

        def lower(self, denoiser: Any, acceleration: Acceleration) -> float:
            if not scale:
                raise RuntimeError("no kernel image is available\nfor this device")
            return scale

    wanted = [torch.ones(2)]
    expected = {"low bits": (Acceleration(schedule=SCHEDULE), wanted, 0.05)}
    off: Any = Off()
    denoiser: Any = None
    told = selftest._engine("off", off, denoiser, expected, lambda factor: [factor * wanted[0]])
    assert told.state == state
    assert scale or told.said == "low bits: RuntimeError: no kernel image is available"
