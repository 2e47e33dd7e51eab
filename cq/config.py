"""The schema of a run, its cross-field checks, and the one door through which components are built."""

import dataclasses
import importlib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cq.origin import shipped

CONF = shipped("conf")
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

    compile: torch.compile for what is sampled in full precision: one graph for full and one for cached calls.
    """

    dtype: str = "float32"
    compile: bool = False


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
class RunConfig:
    """The top of every configuration; the groups are checked against their own dataclasses in `build`."""

    row: Row = field(default_factory=Row)
    seed: int = MISSING
    force: bool = False
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
    correct: Any = MISSING
    quantize: Any = MISSING
    sample: Any = MISSING
    metrics: Any = MISSING
    protocol: Any = MISSING
    latency: Any = MISSING
    logger: Any = MISSING


ConfigStore.instance().store(name="run_config", node=RunConfig)

DTYPES = ("float32", "bfloat16", "float16")


def check_compute(config: DictConfig) -> None:
    """Raise ValueError for a number type that no network here computes in."""
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
    if read and not 1 <= budget.cache_interval <= steps[least]:
        raise ValueError(
            f"budget.cache_interval={budget.cache_interval}: the interval must lie in 1..budget.{least}="
            f"{steps[least]}. Lower the interval or take more steps."
        )
    if budget.get("max_memory") is not None and budget.max_memory <= 0:
        raise ValueError(f"budget.max_memory={budget.max_memory}: must be above 0 GiB. Set null for all there is.")
    for key in ("weight_bits", "act_bits"):
        if not 2 <= budget[key] <= 16:
            raise ValueError(f"budget.{key}={budget[key]}: must lie in 2..16. For full precision use quantize=none.")


def build(node: Any, key: str) -> Any:
    """The component that `node` describes: its `_target_`, called with its other entries.

    Only targets under `cq.` are built. Every entry is checked against the type of the target's field; an
    unknown, missing or ill-typed entry raises ValueError with its dotted key.
    """
    if isinstance(node, DictConfig):
        try:
            node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            where = error.full_key or key
            reason = str(error).splitlines()[0].rstrip(".")
            raise ValueError(f"{where}: has no value ({reason}). Give one: {where}=...") from error
    if not isinstance(node, dict) or "_target_" not in node:
        raise ValueError(
            f"{key}={node!r}: names no component. Choose a yaml of its group, or give a mapping with `_target_`."
        )
    target = node["_target_"]
    if not isinstance(target, str) or not target.startswith("cq."):
        raise ValueError(
            f"{key}._target_={target!r}: only components of the package `cq` can be built. Put yours there."
        )
    kind = component_named(target, key)
    given = {k: v for k, v in node.items() if k != "_target_"}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for entry in given:
        if entry not in fields:
            raise ValueError(f"{key}.{entry}: unknown key; {target} takes {', '.join(fields) or 'none'}. Remove it.")
    values: dict[str, Any] = {}
    for entry, declared in fields.items():
        if entry in given:
            values[entry] = _typed(given[entry], hints[entry], f"{key}.{entry}")
        elif declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING:
            raise ValueError(f"{key}.{entry}: missing; {target} needs it. Add it to the yaml of this choice.")
    try:
        return kind(**values)
    except ValueError as error:  # a component knows its fields, not where it stands
        message = str(error)
        raise ValueError(message if message.startswith(f"{key.split('.')[0]}.") else f"{key}.{message}") from error


def component_named(target: str, key: str) -> Any:
    """The class that `_target_` names. Raises ValueError where there is none, or no component."""
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{key}._target_={target!r}: no such component ({error}). Correct the name.") from error
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"{key}._target_={target!r}: is no component. Name a frozen dataclass.")
    return kind


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type of its field, by JSON's rules: a list may be a tuple and 1 a float, nothing else."""
    if isinstance(value, dict) and "_target_" in value:
        built = build(value, key)
        if isinstance(hint, type) and not isinstance(built, hint):
            raise ValueError(f"{key}={value['_target_']}: is no {hint.__name__}. Choose a component that is one.")
        return built
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"{key}={value!r}: must be {_name(hint)} ({reason}). Give a value of that type.") from error


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_name, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list of {', '.join(_name(part) for part in typing.get_args(hint) if part is not ...)}"
    return hint.__name__ if isinstance(hint, type) else str(hint)
