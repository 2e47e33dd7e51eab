"""Runs of the tiny model: composed as the command line composes them, small enough for a second each."""

from pathlib import Path

from omegaconf import DictConfig

from cq.run import compose
from cq.run.compose import composing

QUICK = (
    "debug=smoke", "evaluate=fidelity", "budget.num_steps=10", "budget.cache_interval=2", "calibrate.num_samples=2",
    "sample.num_images=4", "sample.batch_size=2", "sample.trace=2", "metrics.fidelity.resamples=40",
)  # fmt: skip


def quick(weights: Path, root: Path, *overrides: str) -> list[str]:
    """Arguments of a run that keeps everything under `root`."""
    paths = [f"paths.store={root}/store", f"paths.records={root}/records.jsonl", f"paths.tracking={root}/wandb"]
    return [f"model.weights={weights}", *QUICK, *paths, *overrides]


def composed(arguments: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration, and the names of its choices."""
    with composing():
        return compose.composed(arguments)
