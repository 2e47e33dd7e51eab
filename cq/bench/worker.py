"""One measurement in a process of its own, which the bench starts with threads and instruction sets set.

Usage: python -m cq.bench.worker FILE JOB: measures what JOB (JSON) says, and writes FILE last.
"""

import json
import logging
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.bench.parts import network_of, shares
from cq.bench.scenario import Scenario, Way, read_scenario, read_way
from cq.bench.subject import Subject, subject_of
from cq.bench.timing import draw, interleaved
from cq.bench.ways import Ready, ready, settings_of
from cq.bench.weigh import (
    counted,
    forget_peak,
    layers_in_float,
    resident_bytes,
    stored_bytes,
    weighed,
)
from cq.core.store import Store, write_atomically
from cq.engine.compiled import CompiledNetwork
from cq.engine.kernels import weight_bits

log = logging.getLogger("cq.bench")
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "i8mm")


def machine() -> dict[str, Any]:
    """The processor, what it can do, what of that is used here, and PyTorch."""
    found = {"processor": platform.processor() or platform.machine(), "instruction_sets": ""}
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            found["processor"] = value.strip()
        elif key.strip() in ("flags", "Features"):
            found["instruction_sets"] = " ".join(name for name in FLAGS if name in value.split())
    return {
        **found, "pytorch_kernels": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
        "exact_weight_bits": weight_bits(),
    }  # fmt: skip


def timed(scenario: Scenario, ways: Mapping[str, Way], store: Store, *, parts: bool) -> dict[str, Any]:
    """Seconds of every way, interleaved; with `parts` where the time of a call goes."""
    configs = {name: settings_of(scenario, way) for name, way in ways.items()}
    subject = subject_of(scenario, next(iter(configs.values())))
    made: dict[str, Ready] = {}
    refused: dict[str, str] = {}
    for name, way in ways.items():
        log.info("preparing %s", name)
        try:
            made[name] = ready(scenario, way, subject, configs[name], store)
        except ValueError as error:  # of an engine that this machine, or this PyTorch, cannot run
            refused[name] = str(error)
            log.info("%s is left out: %s", name, error)
    seconds = interleaved(
        made, subject, steps=scenario.timed_steps, said=lambda text: log.info("%s", text),
        rounds={name: ways[name].rounds or scenario.rounds for name in made},
    )  # fmt: skip
    found = {
        "seconds": {
            name: {"full": each.full, "cached": each.cached, "trajectory": each.trajectory}
            for name, each in seconds.items()
        },
        "bits": {name: _bits(way) for name, way in made.items()},
        "refused": refused,
        "num_calls": subject.sampler.num_calls(scenario.num_steps),
    }
    if parts:
        with torch.no_grad():
            found["parts"] = {
                name: _parts(way, subject)
                for name, way in made.items()
                if not isinstance(network_of(way.denoiser), CompiledNetwork)  # a graph has no modules to look at
            }
    return found


def _parts(way: Ready, subject: Subject) -> dict[str, dict[str, float]]:
    maps: dict[str, Tensor] = {}
    full = shares(way.denoiser, lambda: maps.update(subject.call(way.denoiser).features))
    return {"full": full, "cached": shares(way.denoiser, lambda: subject.call(way.denoiser, reuse=maps))}


def _bits(way: Ready) -> str:
    """As W8A8: of most weights and activations."""
    rows = [row for row in way.acceleration.params.coverage if not row["reason"] and row["kind"] != "attention"]
    widths = [(row["weight_bits"], row["act_bits"]) for row in rows]
    weight, act = max(set(widths), key=widths.count) if widths else (32, 32)
    return f"W{weight}A{act}" if widths else "fp32"


def weighed_alone(scenario: Scenario, way: Way, store: Store) -> dict[str, Any]:
    """Bytes and counted cost of one way, alone in this process, which lets go of what serving does not need."""
    config = settings_of(scenario, way)
    subject_of(scenario, config, empty=True)  # imports what is needed, and goes
    forget_peak()
    before = resident_bytes()
    subject = subject_of(scenario, config)
    made = ready(scenario, way, subject, config, store)
    found: dict[str, Any] = {
        "weights_disk_bytes": stored_bytes(subject.denoiser, made.acceleration),
        "layers": layers_in_float(subject.denoiser, made.acceleration),
    }
    # Nothing of the float network stays but what the way shares with it.
    subject = replace(subject, denoiser=made.denoiser)  # type: ignore[arg-type]
    forget_peak()
    draw(made.denoiser, subject, made.acceleration, steps=scenario.timed_steps)
    found |= {"peak_serving_bytes": resident_bytes("VmHWM") - before, **weighed(made)}
    empty = subject_of(scenario, config, empty=True)
    found["counted"] = {str(n): cost for n, cost in counted(scenario, empty, made.acceleration).items()}
    return found


def main(arguments: list[str]) -> None:
    """Console entry of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    started = time.monotonic()
    path, job = Path(arguments[0]), json.loads(arguments[1])
    torch.set_num_threads(job["threads"])
    scenario = read_scenario(job["scenario"])
    ways = {name: read_way(name) for name in job["ways"]}
    store = Store(Path(job["store"]))
    if job["kind"] == "time":
        found = timed(scenario, ways, store, parts=job["parts"])
    else:
        found = weighed_alone(scenario, next(iter(ways.values())), store)
    asked = {key: value for key, value in job.items() if key != "store"}  # where ranges are kept is no result
    document = {**asked, "machine": machine(), **found, "wall_seconds": time.monotonic() - started}
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
