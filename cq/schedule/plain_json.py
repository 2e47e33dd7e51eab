"""A schedule as plain JSON, to hand to other programs and to take from them."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cq.core.phases import Phases

if TYPE_CHECKING:  # brings torch, which reading a list of integers does not need
    from cq.core.artifacts import CacheSchedule

LARGEST_FILE = 2**24  # bytes; a mask of a thousand calls has some thousands


@dataclass(frozen=True, kw_only=True)
class PlainSchedule:
    """num_calls: None where the file does not say it.

    planner, interval, digest and phases: as stored by our own artefact, None and () elsewhere.
    """

    num_calls: int | None
    refresh_calls: tuple[int, ...]
    planner: str | None
    interval: int | None
    digest: str | None
    phases: Phases = ()


def write_plain(schedule: "CacheSchedule", path: Path) -> None:
    """Write `{"num_calls": 250, "refresh_calls": [0, 20, ...]}`; the folder must exist."""
    document = {"num_calls": schedule.num_calls, "refresh_calls": list(schedule.refresh_calls)}
    path.write_text(json.dumps(document) + "\n")


def read_plain(path: Path) -> PlainSchedule:
    """Read a schedule in any of the forms below; a folder means the `artifact.json` in it.

    An object with `refresh_calls` and perhaps `num_calls` (ours, or what `write_plain` made); a list of refresh
    calls, which starts with 0; or one 0 or 1 (true or false) per call, which starts with 1.
    Raises ValueError for anything else.
    """
    file = path / "artifact.json" if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"schedule.path={path}: there is no file {file}. Give an existing one.")
    if not file.is_file() or file.stat().st_size > LARGEST_FILE:
        raise ValueError(
            f"schedule.path={path}: is no regular file of at most {LARGEST_FILE // 2**20} MiB. Give one "
            "of refresh calls."
        )
    try:
        document: Any = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not text, or nested without end
        raise ValueError(f"schedule.path={path}: not JSON ({error}). Give a file of refresh calls.") from error

    if isinstance(document, dict):
        kind = document.get("kind", "CacheSchedule")
        if kind != "CacheSchedule" or "refresh_calls" not in document:
            raise ValueError(
                f"schedule.path={path}: holds a {kind} with keys {sorted(document)}, not a schedule. "
                'Give one with the key "refresh_calls".'
            )
        return _checked(
            path,
            document["refresh_calls"],
            num_calls=document.get("num_calls"),
            planner=document.get("planner"),
            interval=document.get("interval"),
            digest=document.get("digest"),
            phases=document.get("phases", ()),
        )
    if not isinstance(document, list) or not document:
        raise ValueError(f"schedule.path={path}: not a schedule. Give a list of refresh calls, [0, 20, ...].")
    if document[0] == 1:  # a list of refresh calls starts with 0, so this can only be a mask
        if any(item not in (0, 1) for item in document):
            raise ValueError(
                f"schedule.path={path}: starts with 1 but is no mask of 0 and 1. "
                "A list of refresh calls starts with 0, a mask holds one 0 or 1 per call."
            )
        return _checked(path, [call for call, fresh in enumerate(document) if fresh], num_calls=len(document))
    return _checked(path, document)


def _checked(
    path: Path,
    calls: Any,
    *,
    num_calls: int | None = None,
    planner: str | None = None,
    interval: int | None = None,
    digest: str | None = None,
    phases: Any = (),
) -> PlainSchedule:
    integers = isinstance(calls, list) and all(type(call) is int for call in calls)
    if not integers or not calls or calls[0] != 0 or any(b <= a for a, b in pairwise(calls)):
        raise ValueError(
            f"schedule.path={path}: refresh calls {calls!r} must be integers that rise from 0. Mend the file."
        )
    if num_calls is not None and (type(num_calls) is not int or calls[-1] >= num_calls):
        raise ValueError(
            f"schedule.path={path}: the refresh at call {calls[-1]} is outside its own num_calls={num_calls!r}. "
            "Mend the file."
        )
    try:
        told = tuple((int(first), tuple(map(str, sites))) for first, sites in phases)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"schedule.path={path}: phases {phases!r} are no list of [first call, sites]. Delete them: the run's own "
            "cache=... says which maps are reused."
        ) from error
    return PlainSchedule(
        num_calls=num_calls, refresh_calls=tuple(calls), planner=planner, interval=interval, digest=digest, phases=told
    )
