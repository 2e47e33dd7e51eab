"""Compare what the planner says with what runs take: time and peak memory. Usage: python experiments/planner/run.py

Needs an idle machine. Each run is a process of its own, in an empty store; the plan is made in another one, before it.
Writes results/planner.json. `--overrides debug=smoke` tries the script on small runs.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cq.cli.plan import plan_of
from cq.run.components import Components
from cq.run.compose import composed, composing

log = logging.getLogger("planner")
ROOT = Path(__file__).parents[2]
ROWS = (
    "table5/full_precision", "table5/cache_dps", "table5/quant_dps_dec", "table3/quant_dps_dec", "table4/cachequant",
)  # fmt: skip
LARGEST_TIME, LARGEST_MEMORY = 0.25, 0.15  # relative errors that are accepted


def parts_of(arguments: list[str]) -> Components:
    """The run's parts."""
    with composing():
        config, _ = composed(arguments)
    return Components.of(config)


def planned(arguments: list[str]) -> dict[str, float]:
    """What the planner says: seconds, and bytes at the peak."""
    plan = plan_of(parts_of(arguments))
    return {"seconds": sum(plan.seconds.values()), "bytes": max(plan.memory.values())}


def taken(arguments: list[str]) -> dict[str, float]:
    """What the run took: seconds of its stages, without loading and imports, and the process's peak."""
    from cq.run.pipeline import run

    parts = parts_of(arguments)
    started = time.perf_counter()
    run(parts)
    whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {name: value for name, value in parts.store.seconds.items() if name != "load"}
    return {"seconds": whole - parts.store.seconds.get("load", 0.0), "bytes": peak, "stages": seconds}  # type: ignore[dict-item]


def elsewhere(kind: str, arguments: list[str]) -> dict[str, Any]:
    """`planned` or `taken` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--only", kind, "--overrides", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{kind}: {' '.join(arguments)} failed.\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compared(row: str, overrides: list[str]) -> dict[str, Any]:
    """One experiment: plan, run, relative errors of the plan."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"paths.{name}={folder}/{name}" for name in ("store", "tracking", "records")]
        arguments = [f"experiment={row}", *overrides, *paths]
        plan, took = elsewhere("planned", arguments), elsewhere("taken", arguments)
    errors = {key: plan[key] / took[key] - 1 for key in ("seconds", "bytes")}
    within = abs(errors["seconds"]) <= LARGEST_TIME and abs(errors["bytes"]) <= LARGEST_MEMORY
    log.info("%s: planned %s, took %s, error %s, within bounds: %s", row, plan, took, errors, within)
    return {"planned": plan, "took": took, "error": errors, "within": within}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["planned", "taken"], help="answer for one run, as JSON")
    parser.add_argument("--out", type=Path, default=ROOT / "results/planner.json")
    parser.add_argument("--overrides", nargs="*", default=["scale=demo"])
    options = parser.parse_args()
    if options.only:
        answer = {"planned": planned, "taken": taken}[options.only](options.overrides)
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    results = {
        "device": f"cpu ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads",
        "torch": torch.__version__, "overrides": options.overrides,
        "rows": {row: compared(row, options.overrides) for row in ROWS},
    }  # fmt: skip
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
