"""Runs of the tiny model: composed as the command line composes them, small enough for a second each."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from cq.run.config import CONF

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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=arguments, return_hydra_config=True)
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return config, choices
