"""What is timed, as data: conf/bench/NAME.yaml names a model and ways to run it, conf/bench/way/NAME.yaml one way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cq.core.values import Count
from cq.run.building import build, near
from cq.run.config import CONF

FOLDER = CONF / "bench"
EAGER = "eager"  # the way that is the first baseline of every speed-up

Cap = Literal["native", "avx2"]
CAPS: Mapping[str, Mapping[str, str]] = {  # what a process is started with; each library reads its own variable
    "native": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a model.

    settings: of `cq`, as on its command line: quantize, engine, compute. layers: as PyTorch has them, with maps channel
    after channel in memory, or as oneDNN's own operators with packed weights. baseline: whether it may be the best full
    precision that a speed-up is set against. rounds: of its own, where it is too slow for those of the scenario. share:
    of an eager call's time, as guessed for the estimate alone.
    """

    label: str
    settings: tuple[str, ...]
    layers: Literal["pytorch", "channels_last", "onednn"]
    baseline: bool
    rounds: Count | None
    share: float

    def __post_init__(self) -> None:
        if self.share <= 0:
            raise ValueError(f"share={self.share}: must be above 0. An eager call has 1.")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A model, how it is sampled, and what is compared.

    settings: of `cq`, for all ways: the model, its cache, its sampler. architecture: whose shape random weights have, a
    name of cq/models/architectures; null reads the model's own weights. num_steps: of the composed trajectory.
    timed_steps: of the one that is measured. intervals: N of uniform refreshes; the first one is of the measured
    trajectory. rounds: interleaved, after one that is not counted. paper: published speed-up by N, of W8A8 on a GPU.
    """

    title: str
    settings: tuple[str, ...]
    architecture: str | None
    images: Count
    num_steps: Count
    timed_steps: Count
    intervals: tuple[Count, ...]
    rounds: Count
    threads: tuple[Count, ...]
    caps: tuple[Cap, ...]
    ways: tuple[str, ...]
    paper: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.ways[:1] != (EAGER,):
            raise ValueError(f"ways={list(self.ways)}: the first must be {EAGER!r}, which speed-ups are measured from.")
        if not self.intervals or min(self.intervals) < 2 or self.intervals[0] > self.timed_steps + 1:
            raise ValueError(
                f"intervals={list(self.intervals)}: needs values from 2, the first at most one above timed_steps="
                f"{self.timed_steps}, as some samplers make a call more than steps. Take more timed_steps."
            )
        if not self.threads or not self.caps:
            raise ValueError("threads and caps: need at least one value each.")


def names(folder: Path = FOLDER) -> list[str]:
    """The scenarios that have a file."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_scenario(name: str) -> Scenario:
    """The scenario of that name. Raises ValueError where there is none, and for what its file may not say."""
    scenario: Scenario = _read(FOLDER, name, "scenario", Scenario)
    for way in scenario.ways:
        read_way(way)
    return scenario


def read_way(name: str) -> Way:
    """The way of that name. Raises as `read_scenario`."""
    way: Way = _read(FOLDER / "way", name, "way", Way)
    return way


def _read(folder: Path, name: str, what: str, kind: type) -> Any:
    path, known = folder / f"{name}.yaml", names(folder)
    if name not in known:
        raise ValueError(f"{what}={name!r}: there is no {path}.{near(name, known)} Choose from {', '.join(known)}.")
    try:
        document = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OSError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())}). Write YAML.") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: must be a mapping. Take another scenario for a pattern.")
    return build({"_target_": f"{kind.__module__}.{kind.__name__}", **document}, name)
