"""What was set on the command line and is read by nothing: a run that ignores it answers another question than asked.

A number of `budget` is read where interpolations lead from a component to it; a component where a stage of this run
asks it for something. Both are found by asking, so that a new component needs no entry here.
"""

import re
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from cq.core.contracts import FitsAlongTrajectories
from cq.run.components import Components
from cq.run.preflight import known_schedule

BY_CODE = ("budget.max_memory",)  # read by no component


def unread(config: DictConfig, parts: Components, overrides: Sequence[str]) -> dict[str, str]:
    """Key to a sentence, for each override (`key=value`, as Hydra has them) that decides nothing in this run."""
    idle = _idle(parts)
    raw = OmegaConf.to_container(config, resolve=False)
    told = {}
    for override in overrides:
        left, _, value = override.lstrip("+").partition("=")
        key = left.partition("@")[2] or left  # correct@correct.cache=none sets correct.cache
        why = next((why for group, why in idle.items() if _within(key, group)), "")
        if key.startswith("budget.") and key not in BY_CODE and not _reads(raw, key, tuple(idle)):
            why = "no component of this run asks for it"
        if why:
            told[key] = f"{left}={value}: nothing reads it, for {why}."
    return told


def beyond(config: DictConfig, overrides: Sequence[str], *, read: Sequence[str]) -> dict[str, str]:
    """As `unread`, for a command that reads only the sections `read` and what interpolations in them lead to."""
    raw = OmegaConf.to_container(config, resolve=False)
    reached, found = set[str](), set(read)
    while found > reached:
        reached = set(found)
        texts = [text for path, text in _texts(raw, "") if any(_within(path, each) for each in reached)]
        found |= {key for text in texts for key in re.findall(r"\$\{(\w[\w.]*)\}", text)}
    told = {}
    for override in overrides:
        left, _, value = override.lstrip("+~").partition("=")
        key = left.partition("@")[2] or left
        known = key.partition(".")[0] in config  # the other groups, as `debug`, set several sections
        if known and not any(_within(key, each) or _within(each, key) for each in reached):
            told[key] = f"{left}={value}: nothing reads it, for this command reads {' and '.join(read)}."
    return told


def _idle(parts: Components) -> dict[str, str]:
    """The groups that no stage of this run asks for anything, with the reason."""
    calls = parts.sampler.num_calls(parts.sample.num_steps)
    schedule = known_schedule(parts.planner, parts.cost, calls)
    name = f"schedule={type(parts.planner).__name__}"
    idle = {}
    if schedule is not None:
        idle["cost"] = f"{name} needs no calibration"
        if not parts.correct_cache.corrects:
            idle["calibrate"] = f"neither {name} nor the correction of the cache needs a calibration"
        if len(schedule.refresh_calls) == calls:
            idle |= dict.fromkeys(("cache", "predict", "correct.cache"), f"{name} computes every call in full")
    if parts.simulated:
        idle["latency"] = "fake quantization is never timed"
    if not parts.quantized:
        idle["correct.quant"] = "nothing is quantized"
        follows = isinstance(parts.correct_output, FitsAlongTrajectories)
        if not follows or ("cache" in idle and parts.is_baseline):
            idle["correct.output"] = "nothing is quantized"
    return idle


def _reads(raw: object, key: str, idle: tuple[str, ...]) -> bool:
    """Whether something that is read takes its value from `key`, directly or by way of another number of the budget."""
    readers = [path for path, text in _texts(raw, "") if re.search(r"\$\{" + re.escape(key) + r"\}", text)]
    return any(
        _reads(raw, path, idle) if path.startswith("budget.") else not any(_within(path, group) for group in idle)
        for path in readers
    )


def _texts(node: object, path: str) -> Iterable[tuple[str, str]]:
    """Every text of a configuration, under its dotted key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(value, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, path)
    elif isinstance(node, str):
        yield path, node


def _within(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")
