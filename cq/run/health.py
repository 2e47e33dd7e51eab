"""What `cq doctor` looks at: whether this machine has what runs need. Reads files only: no torch, no network.

A problem keeps the bundled models from running; a note says what is not here, which only some runs need.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf

from cq.core.store import check_writable
from cq.models.headers import fault_of
from cq.models.locate import HUB, SCHEME, here
from cq.run.config import CONF
from cq.run.own import conf_folders
from cq.run.tracking import MODES

LEAST_FREE = 2 * 2**30  # bytes: the ablation on the bundled model, with room
NETRC = ("~/.netrc", "~/_netrc")
FILES = ("weights", "reference", "features", "folder")  # keys of a metric that name what it reads
PART = re.compile(r"extra == ['\"](\w+)['\"]")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at, what was found, and what to do about it where it is no good."""

    name: str
    state: Literal["ok", "note", "problem"]
    said: str
    remedy: str = ""


def findings(store: Path) -> Iterator[Finding]:
    """Everything that can be told in a second. store: where artefacts go."""
    yield from _packages()
    yield _device()
    yield cpu()
    yield _disk(store)
    yield from _models()
    yield from _judges()
    yield _wandb()


def choices_of(group: str) -> dict[str, Path]:
    """Name to yaml of every choice of a group, those of other packages included."""
    folders = [folder / group for folder in conf_folders()]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _packages() -> Iterator[Finding]:
    """Python and packages against the ranges of pyproject.toml, as they were installed with cq."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = platform.python_version()
    try:
        ours, needs = metadata("cq"), [Requirement(text) for text in requires("cq") or ()]
    except PackageNotFoundError:
        remedy = "Install it: make environment, or pip install -e . in the repository."
        yield Finding(name="packages", state="problem", said=f"Python {python}; cq is not installed", remedy=remedy)
        return
    asked = ours["Requires-Python"]
    good = python in SpecifierSet(asked)
    remedy = "" if good else "Make the environment anew with another one: make environment PYTHON=..."
    yield Finding(name="Python", state="ok" if good else "problem", said=f"{python} (asked: {asked})", remedy=remedy)
    wrong: dict[str, list[str]] = {}
    known: dict[str, str] = {}
    for need in needs:
        part = match[1] if (match := PART.search(str(need.marker))) else ""
        try:
            known[need.name] = version(need.name)
            if known[need.name] not in need.specifier:
                wrong.setdefault(part, []).append(f"{need.name} {known[need.name]} (asked: {need.specifier})")
        except PackageNotFoundError:
            wrong.setdefault(part, []).append(f"{need.name} is not here")
    told = ", ".join(f"{name} {known.get(name, 'none')}" for name in ("torch", "diffusers", "transformers", "wandb"))
    yield Finding(
        name="packages", state="problem" if "" in wrong else "ok",
        said="; ".join(wrong.get("", [f"cq {ours['Version']}, {told}"])),
        remedy="Install what cq needs: make environment, or pip install -e ." if "" in wrong else "",
    )  # fmt: skip
    for part in sorted(set(wrong) - {""}):
        remedy = f"For what needs it: pip install 'cq[{part}]'"
        yield Finding(name=f"extra {part}", state="note", said="; ".join(wrong[part]), remedy=remedy)


def _device() -> Finding:
    """By the driver and the build of PyTorch; `cq doctor --thorough` asks PyTorch itself."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return Finding(name="device", state="problem", said="no PyTorch", remedy="Install it: pip install torch")
    build = re.search(r"^cuda\b.*= *'([\d.]+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
    cards = _cards()
    if not cards:
        return Finding(name="device", state="ok", said="no NVIDIA GPU found: networks run on the CPU")
    if build is None:
        remedy = "Install a build of PyTorch for CUDA: see pytorch.org"
        return Finding(name="device", state="problem", said=f"{cards[0]}, and a PyTorch for CPUs", remedy=remedy)
    return Finding(name="device", state="ok", said=f"{len(cards)} x {cards[0]}, PyTorch for CUDA {build[1]}")


def _cards() -> list[str]:
    """NVIDIA's GPUs, by name and memory."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=True)
    except (OSError, subprocess.SubprocessError):  # a tool without a driver
        return []
    return done.stdout.strip().splitlines()


def cpu() -> Finding:
    """The instruction set as PyTorch picks it on x86, which images depend on, and what low-bit kernels could use."""
    flags: set[str] = set()
    if (file := Path("/proc/cpuinfo")).is_file():
        flags = set(next((line for line in file.read_text().splitlines() if line.startswith("flags")), "").split())
    widest = "AVX512" if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"} <= flags else ""
    widest = widest or ("AVX2" if {"avx2", "fma"} <= flags else "DEFAULT")
    used = os.environ.get("ATEN_CPU_CAPABILITY", widest).upper()
    low = [name for name in ("avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "as many threads as cores")
    said = (
        f"{platform.machine()}, {used}, {', '.join(low) or 'no int8 dot products'}; {cores} cores, "
        f"{threads if 'as' in threads else f'OMP_NUM_THREADS={threads}'}"
    )
    return Finding(name="CPU", state="ok", said=said)


def _disk(store: Path) -> Finding:
    place = next(folder for folder in (store, *store.absolute().parents) if folder.is_dir())  # nothing is made here
    try:
        check_writable(place, "paths.store", LEAST_FREE)
    except ValueError as error:
        said, _, remedy = str(error).partition(". ")
        return Finding(name="disk", state="problem", said=said, remedy=remedy)
    return Finding(name="disk", state="ok", said=f"{store}: {shutil.disk_usage(place).free / 2**30:.1f} GiB are free")


def _models() -> Iterator[Finding]:
    """Weights of every choice of conf/model: bundled, in the hub's cache, or a folder."""
    there: list[str] = []
    absent: list[str] = []
    for name, path in choices_of("model").items():
        reference = str(_read(path)["model"].weights)
        fault = fault_here(reference)
        if fault is None:
            there.append(name)
        elif reference.startswith(SCHEME):
            remedy = "Install cq again, or fetch the file: git lfs pull"
            yield Finding(name=f"model {name}", state="problem", said=f"{reference}: {fault}", remedy=remedy)
        else:
            absent.append(name)
    yield Finding(name="models", state="ok", said=f"weights found: {', '.join(there) or 'none'}")
    if absent:
        remedy = (
            "cq model=NAME says what to download and where to put it; model.weights=FOLDER names a folder of yours."
        )
        yield Finding(name="models", state="note", said=f"no weights here: {', '.join(absent)}", remedy=remedy)


def _judges() -> Iterator[Finding]:
    """What every choice of conf/metric reads."""
    there: list[str] = []
    absent: list[str] = []
    for name, path in choices_of("metric").items():
        node = _read(path)
        needs = [str(node[key]) for key in FILES if isinstance(node.get(key), str)]
        faults = {need: fault for need in needs if (fault := fault_here(need)) is not None}
        if bundled := [need for need in faults if need.startswith(SCHEME)]:
            remedy = "Install cq again, or fetch the file: git lfs pull"
            said = f"{bundled[0]}: {faults[bundled[0]]}"
            yield Finding(name=f"judge {name}", state="problem", said=said, remedy=remedy)
        (absent if faults else there).append(name)
    yield Finding(name="judges", state="ok", said=f"found: {', '.join(there) or 'none'}")
    if absent:
        remedy = "A run that asks for one says what to download; experiments/published.md has the commands."
        yield Finding(name="judges", state="note", said=f"not here: {', '.join(absent)}", remedy=remedy)


def fault_here(reference: str) -> str | None:
    """What is wrong with a file or folder of weights, by its files' heads; None where nothing is. Fetches nothing."""
    if reference.startswith(HUB):
        return None if here(reference) is not None else "is not in the hub's cache"
    folder = here(reference)
    if folder is None:
        return "is not there"
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.safetensors"))
    return next((f"{path.name} {fault}" for path in files if (fault := fault_of(path)) is not None), None)


def _wandb() -> Finding:
    asked = os.environ.get("WANDB_MODE") or "offline"
    mode = MODES.get(asked)
    if mode is None:
        remedy = "Set WANDB_MODE to online, offline or disabled."
        return Finding(name="W&B", state="problem", said=f"WANDB_MODE={asked} is no mode", remedy=remedy)
    known = os.environ.get("WANDB_API_KEY") or any(
        "wandb" in file.read_text(errors="replace") for name in NETRC if (file := Path(name).expanduser()).is_file()
    )
    if mode == "online" and not known:
        return Finding(name="W&B", state="problem", said="online, without a key", remedy="Log in once: wandb login")
    hint = "; WANDB_MODE=online sends runs to the server" if mode == "offline" else ""
    return Finding(name="W&B", state="ok", said=f"{mode}{hint}")


def _read(path: Path) -> dict[str, Any]:
    """What a yaml names, with what it inherits from others of its folder; paths as by default."""

    def merged(file: Path) -> dict[str, Any]:
        node = yaml.safe_load(file.read_text()) or {}
        out: dict[str, Any] = {}
        for name in node.pop("defaults", []):
            out |= merged(file.with_name(f"{name}.yaml")) if isinstance(name, str) and "/" not in name else {}
        return out | node

    paths = yaml.safe_load((CONF / "paths/default.yaml").read_text())
    whole = OmegaConf.create({**merged(path), "paths": paths})
    return {key: OmegaConf.select(whole, key) for key in (*FILES, "model") if key in whole}
