"""Bundles of the bundled models, made as `cq` makes them, with the images that it drew."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import cq
from cq.engine.kernels import weight_bits
from cq.run.components import Components
from cq.run.context import Run
from cq.run.pipeline import accelerated
from cq.run.stages.accelerated import Accelerated
from cq.run.stages.samples import Samples
from tests.adapt.stock import IMAGES, MODELS, STEPS
from tests.tiny_runs import composed

QUANTIZED, EXECUTED = "dit_mini-w8a8", "dit_mini-w8a8, int8"  # beside the five in full precision, with every correction
BITS = (
    "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2", "correct@correct.quant=channel_affine",
    "correct@correct.output=ptqd",
    # 7 bits where products of 8 saturate
    *(f"{key}={weight_bits() or 8}" for key in ("budget.weight_bits", "quantize.edge_bits")),
)  # fmt: skip
UNCORRECTED = "sd_mini-uncorrected"  # at the prediction
NO_NETWORK = ("sd_mini-output", "dit_mini-output")  # at reuse calls, as recipe=best has it
LED = ("correct@correct.output=closed_loop", "correct.output.num_samples=2", "correct.output.batch_size=2")


@dataclass(frozen=True)
class Bundles:
    """root: one folder each. store: cq's own folder of each. images: by name, as cq drew them."""

    root: Path
    store: dict[str, Path]
    images: dict[str, torch.Tensor]


def run_of(model: str, root: Path, *overrides: str) -> Run:
    """A small run of `cq` with a schedule and a correction to calibrate."""
    paths = [f"paths.store={root}/store", f"paths.tracking={root}/wandb", f"paths.records={root}/records.jsonl"]
    config, _ = composed(
        [
            f"model={model}", "schedule=dps", "correct@correct.cache=channel_affine", "evaluate=none", "latency=none",
            "logger=none", f"budget.num_steps={STEPS}", "budget.cache_interval=2", "calibrate.num_samples=2",
            f"sample.num_images={IMAGES}", f"sample.batch_size={IMAGES}", *paths, *overrides,
        ]
    )  # fmt: skip
    return Run(Components.of(config))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    root, work = tmp_path_factory.mktemp("bundles"), tmp_path_factory.mktemp("work")
    store, images = {}, {}
    no_network = (*LED, "cache=output", "correct@correct.cache=none")
    choices = {QUANTIZED: BITS, UNCORRECTED: ()} | dict.fromkeys(NO_NETWORK, no_network)
    for name in (*MODELS, *choices):
        run = run_of(name.partition("-")[0], work, *choices.get(name, LED))
        made = accelerated(run)
        cq.Acceleration.of(made).save(root / name)
        store[name] = Accelerated(run).folder(made)
        images[name] = Samples(run).drawn(made)().images_NCHW
        if name == QUANTIZED and weight_bits():
            run = run_of("dit_mini", work, *BITS, "engine=int8")
            images[EXECUTED] = Samples(run).drawn(made)().images_NCHW
    return Bundles(root, store, images)
