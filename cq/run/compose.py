"""Hydra's `compose` over conf/, the rows of the tables included, for all but the command `cq`, which Hydra runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict

from cq.run.building import build
from cq.run.config import CONF
from cq.run.rows import register


@contextmanager
def composing() -> Iterator[None]:
    """`composed` works within it, in the middle of a Hydra run of somebody else's, too."""
    register()
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def composed(overrides: Iterable[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration of these overrides, and the names of its choices."""
    config = composed_with_hydra(overrides)
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def composed_with_hydra(overrides: Iterable[str]) -> DictConfig:
    """The same with Hydra's own section, of its sweeper and launcher."""
    return compose("config", overrides=list(overrides), return_hydra_config=True)


def component(choice: str, *overrides: str) -> Any:
    """What a choice builds, with what it inherits: component("quantize=ptq", "budget.weight_bits=4")."""
    group = choice.partition("=")[0]
    with composing():
        return build(composed([choice, *overrides])[0][group], group)
