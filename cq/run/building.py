"""The one door through which components are built: from a yaml's `_target_` to a checked object."""

import dataclasses
import difflib
import importlib
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import get_protocol_members, is_protocol

from cq.core.values import check_plain
from cq.run import own


def near(name: str, known: Iterable[str]) -> str:
    """Which of the known names was meant, if one is close."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def build(node: Any, key: str, contract: Any = object) -> Any:
    """The component that `node` describes: its `_target_`, called with its other entries.

    Only targets under `cq.` and of what was allowed (`cq.run.own`) are built. Every entry is checked against the type
    of the target's field and what `cq.core.values` says of it; an unknown, missing or ill-typed entry raises ValueError
    with its dotted key.
    contract: what the component must be: a class, a protocol, whose methods it must have, or several (A | B).
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
    kind = component_named(target, key)
    check_contract(kind, contract, f"{key}={target}")
    given = {k: v for k, v in node.items() if k != "_target_"}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    for entry in given:
        if entry not in fields:
            raise ValueError(
                f"{key}.{entry}: unknown key; {target} takes {', '.join(fields) or 'none'}.{near(entry, fields)} "
                "Remove it."
            )
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


def check_contract(kind: type, contract: Any, name: str) -> None:
    """Raise ValueError for a class that is not what its place asks for, with what it lacks. name: key=target."""
    fields = {each.name for each in dataclasses.fields(kind)}
    parts = [part for part in typing.get_args(contract) if is_protocol(part)]
    if parts:  # what it lacks is said of the one that it is nearest to
        lacks = [sum(m not in fields and not hasattr(kind, m) for m in get_protocol_members(part)) for part in parts]
        contract = parts[lacks.index(min(lacks))]
    if not is_protocol(contract):
        if not issubclass(kind, contract):
            raise ValueError(f"{name}: is no {_name(contract)}. Choose a component that is one.")
        return
    for member in sorted(get_protocol_members(contract)):
        asked, own = getattr(contract, member, None), getattr(kind, member, None)
        if member not in fields and not (callable(own) if callable(asked) else hasattr(kind, member)):
            raise ValueError(
                f"{name}: is no {contract.__name__}. Choose a component that is one: this has no {member!r}, which "
                f"{contract.__module__}.{contract.__name__} asks for."
            )
        if inspect.isfunction(asked) and inspect.isfunction(own) and not _takes(own, asked):
            raise ValueError(
                f"{name}: its {member}{inspect.signature(own)} cannot be called as a {contract.__name__}'s. Write it "
                f"as {member}{inspect.signature(asked)}."
            )


def _takes(own: Any, asked: Any) -> bool:
    """Whether a method takes the arguments that its contract is called with."""
    parts = inspect.signature(asked).parameters.values()
    named = {part.name: None for part in parts if part.kind is part.KEYWORD_ONLY}
    try:
        inspect.signature(own).bind(*[None for part in parts if part.kind is part.POSITIONAL_OR_KEYWORD], **named)
    except TypeError:
        return False
    return True


def component_named(target: object, key: str) -> Any:
    """The class that `_target_` names. Raises ValueError where there is none, or none that may be built."""
    target, mine = _allowed(target, key)
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{key}._target_={target!r}: no such component ({error}). Correct the name.") from error
    if mine and not (place := Path(str(sys.modules[module].__file__))).is_relative_to(mine.home):
        raise ValueError(
            f"{key}._target_={target!r}: {place} is another module of that name. Rename the one in {mine.home}."
        )
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"{key}._target_={target!r}: is no component. Name a frozen dataclass.")
    return kind


def _allowed(target: object, key: str) -> tuple[str, own.Own | None]:
    """The name of a class that may be built, and whose it is, None if ours. Raises ValueError for any other."""
    mine = own.owner(target) if isinstance(target, str) else None
    if isinstance(target, str) and (target.startswith("cq.") or mine):
        return target, mine
    package = str(target).partition(".")[0]
    raise ValueError(
        f"{key}._target_={target!r}: only components of `cq` and of what you allow are built. Allow it: "
        f"{own.KEY}={package} for an installed package, {own.KEY}=./FOLDER for a folder with its modules."
    )


def check_targets(node: Any, key: str = "") -> None:
    """Raise ValueError, before anything is imported, for a component of a configuration that nobody allowed."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node)
    for name, inside in node.items() if isinstance(node, dict) else ():
        if name == "_target_":
            _allowed(inside, key)
        check_targets(inside, f"{key}.{name}" if key else str(name))


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type of its field, by JSON's rules: a list may be a tuple and 1 a float, nothing else."""
    if isinstance(value, dict) and "_target_" in value:
        parts = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
        kinds = [part for part in parts if isinstance(part, type) and part is not type(None)]
        return build(value, key, kinds[0] if kinds else object)
    if (
        typing.get_origin(hint) is Mapping
        and isinstance(value, dict)
        and any(isinstance(part, dict) for part in value.values())
    ):
        return {name: build(part, f"{key}.{name}", typing.get_args(hint)[1]) for name, part in value.items()}
    check_plain(value, key)
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        typed = adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # what `cq.core.values` says, with its remedy
            raise ValueError(f"{key}={value!r}: {first['ctx']['error']}") from error
        raise ValueError(
            f"{key}={value!r}: must be {_name(hint)} ({first['msg']}). Give a value of that type."
        ) from error
    return os.path.expanduser(typed) if isinstance(typed, str) else typed


UNIONS = (typing.Union, types.UnionType)


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Annotated:
        return _name(typing.get_args(hint)[0])
    if typing.get_origin(hint) in UNIONS:
        return " or ".join(map(_name, typing.get_args(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list of {', '.join(_name(part) for part in typing.get_args(hint) if part is not ...)}"
    return hint.__name__ if isinstance(hint, type) else str(hint)
