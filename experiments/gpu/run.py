"""What a GPU makes of caching: fp32, tf32, bf16 and compiled, with and without the cache, and the tests that need one.

Usage: python experiments/gpu/run.py --out FOLDER; then, on any machine, python experiments/gpu/run.py --draw FOLDER
The three models compile side by side while the GPU tests run; then they are measured one after another, alone.
Whatever is found is written at once, so a run that is cut short leaves what it had.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEASURE = Path(__file__).with_name("measure.py")
MODELS = {"ldm_imagenet256": "LDM-4 ImageNet", "dit_xl2_256": "DiT-XL/2", "sd_v1": "SD v1"}  # the slowest is last
COMPILING = 0.45  # of all the time: nothing is begun to be compiled later
GRACE = 0.1  # of all the time: for what was begun, and for the tests
BEST = "bf16 compiled"  # the best full precision, or nearly, that a card can do
ENDING = 15.0  # seconds kept for tables


class Run:
    """Where things are written, and how much time is left of `seconds`."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work, self.out = args, work, args.out
        self.started, self.seconds = time.time(), float(args.seconds)

    @property
    def left(self) -> float:
        """Seconds until tables must be written."""
        return self.started + self.seconds - ENDING - time.time()

    def say(self, text: str) -> None:
        print(f"{time.time() - self.started:6.1f} s  {text}", flush=True)

    def process(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        log = (self.out / f"{name}.log").open("ab")
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)

    def model(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        arguments = ["--work", str(self.work), "--device", self.args.device, *more]
        return self.process("models", str(MEASURE), name, *arguments, *(["--tiny"] if self.args.tiny else []))

    def rows(self) -> list[dict[str, Any]]:
        """What was measured up to now."""
        path = self.work / "rows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def about(device: str) -> dict[str, Any]:
    """The card, its driver, and the versions."""
    import diffusers
    import torch

    found = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version(),
             "cpus": os.cpu_count(), "device": device}  # fmt: skip
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv"]
        found |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        if shutil.which(asked[0]):
            found["nvidia-smi"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    return found


def measured(run: Run) -> None:
    """Compile side by side, with the tests beside, then one after another."""
    args, until = run.args, run.started + COMPILING * run.seconds
    backend = ["--backend", args.backend, "--compile-until", str(until)]
    models = {name: run.model(name, *backend) for name in args.models}
    tests = run.process("tests", "-m", "pytest", "tests/test_gpu.py", "-m", "gpu", "-rA", "-W", "default", "--tb=short",
                        "-p", "no:cacheprovider")  # fmt: skip
    ready = {name: run.work / f"{name}.ready" for name in models}
    while time.time() < until + GRACE * run.seconds:
        waiting = [name for name in models if not ready[name].exists() and models[name].poll() is None]
        if not waiting and tests.poll() is not None:
            break
        time.sleep(0.2)
    run.say("compiled: " + (", ".join(name for name in models if ready[name].exists()) or "nothing"))
    for name in models:
        if not ready[name].exists():
            run.say(f"{name}: not compiled in time, or failed; measured without (see models.log)")
            models[name].kill()
            models[name] = run.model(name, "--backend", "none")
    if tests.poll() is None:
        tests.kill()
        run.say("tests: stopped, out of time (see tests.log)")
    run.say("tests: " + last_line(run.out / "tests.log"))
    guarded(run, "int8", int8)
    for number, (name, process) in enumerate(models.items()):
        seconds = max(5.0, (run.left - 10) / (len(models) - number))
        told = run.work / f"{name}.seconds"
        told.write_text(f"{seconds:.1f}")
        told.rename(run.work / f"{name}.go")
        try:
            process.wait(min(seconds + 25, max(run.left, 1.0)))
        except subprocess.TimeoutExpired:
            process.kill()
            run.say(f"{name}: stopped, out of time; what it had found is kept")
        run.say(f"{name}: measured, exit code {process.poll()}")
        guarded(run, "tables", tables)


def int8(run: Run) -> None:
    """Would integers pay on this card?"""
    import torch

    from cq.engine.card import sentence, timed

    found = timed(torch.device(run.args.device), smaller=8 if run.args.tiny else 1)
    where = torch.cuda.get_device_name() if run.args.device == "cuda" else "this CPU"
    write_csv(run.out / "int8.csv", [asdict(row) for row in found])
    said = sentence(found, where)
    (run.work / "int8.txt").write_text(said)
    run.say(said)


def tables(run: Run) -> None:
    """CSV, JSON, and a short text."""
    rows = run.rows()
    write_csv(run.out / "calls.csv", with_counted([row for row in rows if row["what"] == "call"], rows))
    write_csv(run.out / "trajectories.csv", speedups(rows))
    said = run.work / "int8.txt"
    summary = {"about": json.loads((run.work / "about.json").read_text()), "seconds": time.time() - run.started,
               "int8": said.read_text() if said.exists() else "", "rows": rows,
               "tests": last_line(run.out / "tests.log")}  # fmt: skip
    (run.out / "summary.json").write_text(json.dumps(summary, indent=1))
    (run.out / "table.txt").write_text(text(speedups(rows)))


def with_counted(calls: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls with what was counted beside."""
    counted = {row["model"]: row for row in rows if row["what"] == "counted"}
    return [
        {**call, "gmacs": counted[call["model"]][f"macs_{call['kind']}"] * 2 * call["images"] / 1e9} for call in calls
    ]


def speedups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every trajectory with its ratios to others without a cache: fp32, its own kind, compiled bf16; and as counted."""
    found = [row for row in rows if row["what"] == "trajectory"]
    counted = {row["model"]: row for row in rows if row["what"] == "counted"}
    ms = {(row["model"], row["images"], row["variant"], row["N"]): row["ms"] for row in found}
    out = []
    for row in found:
        ratios: dict[str, Any] = {}
        for name, variant in (("over_fp32", "fp32"), ("over_own", row["variant"]), ("over_bf16_compiled", BEST)):
            base = ms.get((row["model"], row["images"], variant, 1))
            ratios[name] = base / row["ms"] if base else float("nan")
        refreshes = -(-row["calls"] // row["N"])
        full, cached = counted[row["model"]]["macs_full"], counted[row["model"]]["macs_cached"]
        ratios["counted"] = row["calls"] * full / (refreshes * full + (row["calls"] - refreshes) * cached)
        out.append({**row, **ratios})
    return out


def text(found: Iterable[Mapping[str, Any]]) -> str:
    """A line a trajectory."""
    names = ("over_fp32", "over_own", "over_bf16_compiled", "counted")
    lines = [f"{'model':16}{'images':>7} {'':14}{'N':>3}{'ms':>10}" + "".join(f"{name:>20}" for name in names)]
    for row in found:
        start = f"{row['model']:16}{row['images']:7} {row['variant']:14}{row['N']:3}{row['ms']:10.1f}"
        lines.append(start + "".join(f"{row[name]:20.2f}" for name in names))
    return "\n".join(lines) + "\n"


def draw(folder: Path) -> None:
    """speedup.png beside the CSV: whole trajectories of one image, against eager fp32 without a cache."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (folder / "trajectories.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["images"] == "1"]
    cases = list(dict.fromkeys((row["model"], int(row["N"])) for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
    width = 0.8 / len(variants)
    for index, variant in enumerate(variants):
        heights = {(row["model"], int(row["N"])): float(row["over_fp32"]) for row in rows if row["variant"] == variant}
        places = [(place + (index - (len(variants) - 1) / 2) * width, heights[case])
                  for place, case in enumerate(cases) if case in heights]  # fmt: skip
        bars = axes.bar([x for x, _ in places], [y for _, y in places], width, label=variant)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    labels = [f"{MODELS[model]}\n" + ("no cache" if interval == 1 else f"N = {interval}") for model, interval in cases]
    axes.set_xticks(range(len(cases)), labels)
    axes.set_ylabel("times faster than eager fp32 without a cache")
    where = json.loads((folder / "summary.json").read_text())["about"]
    axes.set_title(f"One image, whole trajectories, measured on {where.get('card', 'a CPU')} (torch {where['torch']})")
    axes.legend()
    figure.savefig(folder / "speedup.png", dpi=120)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "what"))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return lines[-1] if lines else "did not run"


def guarded(run: Run, name: str, part: Any) -> None:
    """What fails is told, and the rest goes on."""
    try:
        part(run)
    except Exception:
        run.say(f"{name} failed:\n{traceback.format_exc()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw what --out wrote, and do nothing else")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--backend", default="inductor", help="torch.compile's; none leaves it out")
    parser.add_argument("--tiny", action="store_true", help="the same networks, small: to try the script")
    args = parser.parse_args()
    if args.draw:
        draw(args.draw)
        return
    if not args.out:
        parser.error("--out FOLDER: is needed")
    sys.path.insert(0, str(ROOT))
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, Path(folder))
        (run.work / "about.json").write_text(json.dumps(about(args.device)))
        run.say((run.work / "about.json").read_text())
        guarded(run, "measuring", measured)
        guarded(run, "tables", tables)
        print((run.out / "table.txt").read_text() if (run.out / "table.txt").exists() else "no table", flush=True)
        run.say("done")


if __name__ == "__main__":
    main()
