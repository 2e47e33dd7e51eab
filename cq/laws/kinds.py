"""Which laws a component has to keep, by the group of its yaml; and the components of a package, to be tried."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from cq.core import contracts
from cq.laws import caching, correctors, followers, forecasts, lowering, metrics, planners
from cq.laws.choices import built, check_fields, components
from cq.laws.law import Broken, Law, Make, Untried, World, words
from cq.models.diffusion import ModelComponent
from cq.run.building import check_contract
from cq.run.explain import explain
from cq.run.own import Own


@dataclass(frozen=True)
class Kind:
    """contract: what a component of the group must have. laws: what it must keep."""

    contract: Any
    laws: tuple[Law, ...]


def of(contract: Any, laws: tuple[Law, ...]) -> Iterator[Law]:
    """The laws, where a kind has several contracts: they say nothing of a component that has another one."""

    def limited(law: Law) -> Law:
        @wraps(law)
        def tried(make: Make, world: World) -> None:
            if not isinstance(make(), contract):
                raise Untried(f"is no {contract.__name__}")
            law(make, world)

        return tried

    return map(limited, laws)


KINDS = {
    "schedule": Kind(contracts.SchedulePlanner, planners.PLANNER),
    "cost": Kind(contracts.Cost, planners.COST),
    "correct": Kind(
        contracts.Corrector | contracts.FitsAlongTrajectories,
        (
            *of(contracts.Corrector, correctors.CORRECTOR),
            *of(contracts.FitsAlongTrajectories, followers.FOLLOWER),
        ),
    ),
    "predict": Kind(contracts.Predictor, forecasts.PREDICTOR),
    "sampler": Kind(contracts.Sampler, forecasts.SAMPLER),
    "cache": Kind(contracts.CacheStrategy, caching.STRATEGY),
    "quantize": Kind(contracts.Quantizer, lowering.QUANTIZER),
    "engine": Kind(contracts.Engine, lowering.ENGINE),
    "metric": Kind(contracts.Metric, metrics.METRIC),
    "model": Kind(ModelComponent, caching.MODEL),
}


@dataclass(frozen=True)
class Verdict:
    """choice: group=name. law: in words. state: holds, broken, or untried: it does not concern the
    component, or needs what is not here. told: why, with a remedy."""

    choice: str
    law: str
    state: str
    told: str = ""


def verdicts(own: Own, world: World) -> Iterator[Verdict]:
    """Of every component of a package: each choice by each law of its kind, then the classes that no yaml names."""
    named: set[str] = set()
    for group, name in [pair for folder in own.conf for pair in components(folder) if pair[0] in KINDS]:
        make = partial(built, group, name)
        attempts: list[tuple[str, Callable[[], Any]]] = [
            ("its yaml lists every field of a frozen dataclass", partial(check_fields, group, name, named)),
            ("it builds, and has what its contract asks for", partial(_check_built, make, group, name)),
            *((words(law), partial(law, make, world)) for law in KINDS[group].laws),
        ]
        for index, (law, attempt) in enumerate(attempts):
            yield (verdict := _tried(f"{group}={name}", law, attempt))
            if index < 2 and verdict.state == "broken":  # the others could only say so again
                break
    for module in _modules(own):
        verdict = _tried(module, "it can be imported", partial(importlib.import_module, module))
        if verdict.state == "broken":
            yield verdict
            continue
        for target, group in _classes(sys.modules[module]).items():
            if target not in named:
                remedy = f"write {group}/NAME.yaml with _target_: {target} and its fields, so that it can be chosen"
                yield Verdict(target, "a yaml names it", "untried", remedy)


def _modules(own: Own) -> Iterator[str]:
    """Those with dataclasses: importing anything else, as a script, could do anything."""
    for name in own.modules:
        spec = importlib.util.find_spec(name)
        places = (spec and spec.submodule_search_locations) or [str(spec and spec.origin)]
        for place in map(Path, places):
            for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
                if "@dataclass" in path.read_text():
                    yield ".".join([name, *(path.relative_to(place).with_suffix("").parts if place.is_dir() else ())])


def _classes(module: ModuleType) -> dict[str, str]:
    """The components that a module defines, to the group of their kind."""
    kinds = [value for value in vars(module).values() if isinstance(value, type) and is_dataclass(value)]
    found = {}
    for kind in kinds:
        group = next((group for group in KINDS if _is(kind, KINDS[group].contract)), None)
        if group is not None and kind.__module__ == module.__name__:
            found[f"{module.__name__}.{kind.__qualname__}"] = group
    return found


def _is(kind: type, contract: Any) -> bool:
    try:
        check_contract(kind, contract, "")
    except ValueError:
        return False
    return True


def _check_built(make: Make, group: str, name: str) -> None:
    check_contract(type(make()), KINDS[group].contract, f"{group}={name}")


def _tried(choice: str, law: str, attempt: Callable[[], Any]) -> Verdict:
    try:
        attempt()
    except Untried as reason:
        return Verdict(choice, law, "untried", str(reason))
    except Broken as error:
        return Verdict(choice, law, "broken", str(error))
    except Exception as error:  # whatever somebody else's code raises
        return Verdict(choice, law, "broken", explain(error))
    return Verdict(choice, law, "holds")
