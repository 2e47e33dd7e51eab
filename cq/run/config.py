"""The schema of a run, and what its numbers and places must be, whatever components they are for."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from cq.core.values import check_plain
from cq.run.building import near
from cq.run.origin import shipped
from cq.run.own import CONF as CONF

PAPER = shipped("results/paper.csv")  # the published numbers


@dataclass
class Budget:
    """The neutral numbers that several choices read. num_steps: sampler steps. cache_interval: N.

    sample_steps: steps of the run itself, in rows of fewer steps than the full-precision images they are compared with.
    max_memory: GiB a process may use, of the memory its network runs in; null for what the machine has.
    """

    num_steps: int = MISSING
    sample_steps: int = MISSING
    cache_interval: int = MISSING
    weight_bits: int = MISSING
    act_bits: int = MISSING
    max_memory: float | None = None


@dataclass
class Compute:
    """How the network computes. dtype: float32, or bfloat16 or float16 with float32 statistics.

    compile: torch.compile for what is sampled in full precision, as engine=compiled without what that adds.
    precision: of float32's products on GPUs: highest, or tf32. Older than it are records, so its default names nothing.
    """

    dtype: str = "float32"
    compile: bool = False
    precision: str = "highest"


@dataclass
class Paths:
    """store: artefacts of all runs. records: one JSON line a run. data: data sets. tracking: W&B's files."""

    store: str = MISSING
    records: str = MISSING
    data: str = MISSING
    tracking: str = MISSING


@dataclass
class Row:
    """Where the run stands in a table. paper: the key of the published row it is set beside, or empty."""

    table: str = MISSING
    name: str = MISSING
    order: int = MISSING
    label: str = MISSING
    paper: str = MISSING


@dataclass
class Baseline:
    """How the full-precision images are drawn that a run is compared with; by default as its own."""

    num_steps: int = MISSING
    sampler: Any = MISSING


@dataclass
class Correct:
    """What is put right: cache, the stale maps; quant, what quantized layers make of them; output, the prediction."""

    cache: Any = MISSING
    quant: Any = MISSING
    output: Any = MISSING


@dataclass
class Limit:
    """What an image may cost at most, as counted (`cq.run.objective`); null for anything.

    seconds: what is not in the store may take at most, by a few timed calls before it starts.
    """

    macs_image: float | None = None
    bops_image: float | None = None
    bops_share: float | None = None
    weight_bytes: float | None = None
    seconds: float | None = None


@dataclass
class RunConfig:
    """The top of every configuration; the groups are checked against their own dataclasses in `build`."""

    row: Row = field(default_factory=Row)
    seed: int = MISSING
    force: bool = False
    fail_fast: bool = False
    objective: list[str] = field(default_factory=list)
    limit: Limit = field(default_factory=Limit)
    budget: Budget = field(default_factory=Budget)
    paths: Paths = field(default_factory=Paths)
    baseline: Baseline = field(default_factory=Baseline)
    compute: Compute = field(default_factory=Compute)
    model: Any = MISSING
    sampler: Any = MISSING
    cache: Any = MISSING
    predict: Any = MISSING
    calibrate: Any = MISSING
    cost: Any = MISSING
    schedule: Any = MISSING
    correct: Correct = field(default_factory=Correct)
    quantize: Any = MISSING
    engine: Any = MISSING
    sample: Any = MISSING
    metrics: Any = MISSING
    protocol: Any = MISSING
    latency: Any = MISSING
    logger: Any = MISSING


ConfigStore.instance().store(name="run_config", node=RunConfig)


def check_top(config: DictConfig, kind: type = RunConfig, above: str = "") -> None:
    """Raise ValueError for a key that the schema does not have (`+key=...` adds one), or a value that no field takes.

    Components are left to `build`.
    """
    declared = {each.name: each for each in dataclasses.fields(kind)}
    for name in map(str, config):
        key = f"{above}{name}"
        if name not in declared:
            raise ValueError(
                f"{key}={config[name]}: there is no key {name!r}.{near(name, declared)} Known keys here: "
                f"{', '.join(sorted(declared))}."
            )
        section = declared[name].type
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            check_top(config[name], section, f"{key}.")
        elif not OmegaConf.is_missing(config, name):
            if section is Any and not isinstance(config[name], DictConfig):
                slot = f"correct@{key}" if above == "correct." else f"+{name}@{key}"
                group = "evaluate" if name == "metrics" else slot if above else name
                raise ValueError(f"{key}={config[name]}: names no component. Choose one by {group}=...")
            check_plain(config[name], key, empty=key == "row.paper")


def check_row(config: DictConfig) -> None:
    """Raise ValueError for a name under which no record, file or column can be found again."""
    for key in ("table", "name"):
        if not re.fullmatch(r"\w[\w.+-]*", name := config.row[key]):
            raise ValueError(
                f"row.{key}={name!r}: must be one plain name, of letters, digits, and _ . + - between them. The words "
                "for a table are row.label."
            )


def place(config: DictConfig, key: str) -> Path:
    """The folder or file that `paths.key` names; ~ is the user's own folder, as a shell has it."""
    return Path(config.paths[key]).expanduser()


def check_places(config: DictConfig) -> None:
    """Raise ValueError where two things would be written over each other, or records into what is no file."""
    records = place(config, "records")
    if records.is_dir():
        raise ValueError(f"paths.records={records}: is a folder. Name a file in it: {records / 'records.jsonl'}.")
    if records.exists() and not records.is_file():
        raise ValueError(f"paths.records={records}: is no regular file. Name one, which is made where it is missing.")
    found: dict[Path, str] = {}
    for key in ("store", "records", "tracking"):
        path = place(config, key).resolve()
        if path in found:
            raise ValueError(f"paths.{key}={path}: is paths.{found[path]}, too. Give each a place of its own.")
        found[path] = key


DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("highest", "tf32")


def check_compute(config: DictConfig) -> None:
    """Raise ValueError for a number type that no network here computes in, or products that no device here makes."""
    if (precision := config.compute.precision) not in PRECISIONS:
        raise ValueError(f"compute.precision={precision!r}: must be {' or '.join(PRECISIONS)}.")
    if precision == "tf32":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("compute.precision=tf32: is for GPUs, and here is none. Set compute.precision=highest.")
    if config.compute.dtype not in DTYPES:
        raise ValueError(
            f"compute.dtype={config.compute.dtype!r}: must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}. float32 is "
            "what the published tables of this project use."
        )


def check_budget(config: DictConfig) -> None:
    """Raise ValueError for numbers that no choice of components could honour."""
    budget = config.budget
    steps = {key: budget[key] for key in ("num_steps", "sample_steps") if key in budget}
    for key, value in steps.items():
        if value < 1:
            raise ValueError(f"budget.{key}={value}: must be at least 1. 250 is usual.")
    least = min(steps, key=lambda key: steps[key])
    if config.baseline.num_steps < 1:
        raise ValueError(f"baseline.num_steps={config.baseline.num_steps}: must be at least 1. 250 is usual.")
    read = "schedule" not in config or "interval" in config.schedule  # an uncached run has no interval
    if budget.cache_interval < 1 or (read and budget.cache_interval > steps[least]):
        raise ValueError(
            f"budget.cache_interval={budget.cache_interval}: the interval must lie in 1..budget.{least}="
            f"{steps[least]}. Lower the interval or take more steps."
        )
    if budget.get("max_memory") is not None and budget.max_memory <= 0:
        raise ValueError(f"budget.max_memory={budget.max_memory}: must be above 0 GiB. Set null for all there is.")
    for key in ("weight_bits", "act_bits"):
        if not 2 <= budget[key] <= 16:
            raise ValueError(f"budget.{key}={budget[key]}: must lie in 2..16. For full precision use quantize=none.")
