"""Does the engine draw what the simulation shows? Usage: python experiments/parity/run.py [--models ...]; see README.md

Writes results/parity.csv. Its runs are cq's own, in a store and a record file of theirs; a kill loses little.
"""

import argparse
import csv
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cq.core.acceleration import NO_CORRECTION, Acceleration
from cq.core.denoiser import GuidedDenoiser
from cq.engine.int8 import Int8
from cq.evaluate.parity import Layers, SideBySide, channels_last, exact_sums, reversed_sums
from cq.quantize.twin import fake_quantized
from cq.run.components import Components
from cq.run.compose import composed, composing
from cq.run.context import Run
from cq.run.ledger import execute

log = logging.getLogger("parity")
ROOT = Path(__file__).parents[2]
CLASSES = ("evaluate=class_conditional",)
UNCONDITIONAL = ("evaluate=unconditional",)
MODELS = {
    "ldm_mini": CLASSES, "dit_mini": CLASSES, "ldm_uncond_mini": UNCONDITIONAL, "ddpm_mini": UNCONDITIONAL,
    "sd_mini": ("evaluate=text_to_image",),
}  # fmt: skip
CELLS = [(model, 8) for model in MODELS] + [("ldm_mini", 4)]
METHOD = (  # everything that is folded into scales and biases, per-call scales included
    "quantize=ptq", "schedule=dps", "correct@correct.cache=channel_affine", "correct@correct.quant=channel_affine",
    "sample=demo", "calibrate=demo", "latency=none", "logger=none", "budget.num_steps=20", "budget.cache_interval=2",
)  # fmt: skip
SEEDS, ENGINES, TRACED = (0, 1, 2), ("simulate", "int8"), 16  # TRACED: images whose calls and layers are compared
CONTROLS = {each.__name__: each for each in (channels_last, reversed_sums, exact_sums)}
LEAST_LAYER_DB, ALLOWED_DB = 120.0, 3.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison. simulated: what the simulation has; low, high: where the engine's value must lie."""

    model: str
    bits: str
    seed: int
    what: str
    simulated: float | None
    executed: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        return self.low <= self.executed <= self.high

    @property
    def cells(self) -> list[Any]:
        numbers = (self.simulated, self.executed, self.low, self.high)
        shown = ["" if each is None else f"{each:.6g}" for each in numbers]
        return [self.model, self.bits, self.seed, self.what, *shown, "yes" if self.within else "no"]


def asked(model: str, bits: int, seed: int, engine: str, runs: Path) -> Any:
    """Configuration, choices and command line of one run."""
    line = (
        f"model={model}", *MODELS[model], *METHOD, f"budget.weight_bits={bits}", f"seed={seed}", f"engine={engine}",
        f"paths.store={runs / 'store'}", f"paths.records={runs / 'runs.jsonl'}",
    )  # fmt: skip
    with composing():
        return *composed(line), line


def lines_of(model: str, bits: int, seed: int, runs: Path) -> Iterator[Line]:
    """Scores of the images; then, once a model, predictions and layers on trajectories of calibration seeds."""
    simulated, executed = (execute(*asked(model, bits, seed, engine, runs), warn=False) for engine in ENGINES)
    assert executed.executed
    assert not simulated.executed
    named: dict[str, Any] = {"model": model, "bits": f"W{bits}A8", "seed": seed}
    for key, score in simulated.scores.items():
        if score["low"] is not None:
            value, low, high = score["value"], score["low"], score["high"]
            yield Line(**named, what=key, simulated=value, executed=executed.scores[key]["value"], low=low, high=high)
    if seed != SEEDS[0]:
        return
    config, _, _ = asked(model, bits, seed, "int8", runs)
    found = traced(Run(Components.of(config)), runs / "store" / simulated.folders["acceleration"])
    prediction, layers = found["int8"], found["layers"]
    rest: dict[str, Any] = {"high": float("inf"), **named}
    for name in CONTROLS:
        if math.isfinite(control := found[name]):
            what, low = f"prediction, dB, beside {name}", control - ALLOWED_DB
            yield Line(what=what, simulated=control, executed=prediction, low=low, **rest)
    yield Line(what="worst layer, dB", simulated=None, executed=layers, low=LEAST_LAYER_DB, **rest)


@torch.no_grad()
def traced(run: Run, folder: Path) -> dict[str, float]:
    """SNR in dB on equal inputs: predictions of the engine and of the simulation added up otherwise; worst layer."""
    acceleration, given = Acceleration.load(folder), run.model.denoiser
    twin = fake_quantized(given, acceleration.params, acceleration.quant)
    executed = Int8().lower(given, replace(acceleration, output=NO_CORRECTION))
    assert isinstance(executed, GuidedDenoiser)
    both = SideBySide(twin, {"int8": executed, **{name: control(twin) for name, control in CONTROLS.items()}})
    layers = Layers(twin, executed)
    for _ in run.loops.one(both, run.loops.seeds(TRACED), acceleration):
        pass
    log.info(
        "%d layers in integers, worst %s", len(layers.ratios), min(layers.ratios, key=lambda n: layers.ratios[n].db)
    )
    return {name: ratio.db for name, ratio in both.ratios.items()} | {
        "layers": min(ratio.db for ratio in layers.ratios.values())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The integer engine beside its simulation.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), choices=SEEDS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/parity", help="store and records")
    parser.add_argument("--out", type=Path, default=ROOT / "results/parity.csv")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    lines = [
        line
        for model, bits in CELLS if model in options.models
        for seed in options.seeds
        for line in lines_of(model, bits, seed, options.runs.resolve())
    ]  # fmt: skip
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "bits", "seed", "what", "simulated", "executed", "low", "high", "within"])
        writer.writerows(line.cells for line in lines)
    outside = [line for line in lines if not line.within]
    log.info("%d of %d within their bars", len(lines) - len(outside), len(lines))
    for line in outside:
        log.info("outside: %s", ", ".join(map(str, line.cells)))


if __name__ == "__main__":
    main()
