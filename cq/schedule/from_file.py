"""From file: a schedule made elsewhere, or by an earlier run."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cq.schedule.bounds import check_num_calls
from cq.schedule.plain_json import PlainSchedule, read_plain

if TYPE_CHECKING:  # these bring torch, which a check of a configuration does not need
    from cq.core.artifacts import CacheSchedule
    from cq.core.contracts import PlanRequest


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """The schedule in a JSON file, unchanged. Reads no statistics and no budget.

    path: relative to the working directory. An artefact of ours (its folder or its `artifact.json`), an object with
    `refresh_calls`, a list of refresh calls, or a mask of 0 and 1. One of ours keeps its planner, interval and digest.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("schedule.path='': names no file. Set it to a JSON schedule.")

    def check(self, num_calls: int) -> None:
        """Raise ValueError where the file is no schedule, or one of another number of calls."""
        self._read(num_calls)

    def content_digest(self) -> str:
        """SHA-256 of the file (of `artifact.json` where the path is a folder)."""
        path = Path(self.path)
        return hashlib.sha256((path / "artifact.json" if path.is_dir() else path).read_bytes()).hexdigest()

    def plan(self, request: "PlanRequest") -> "CacheSchedule":
        """What the file says. Raises ValueError where an artefact's content is not what its digest says."""
        from cq.core.artifacts import CacheSchedule

        plain = self._read(request.num_calls)
        schedule = CacheSchedule(
            num_calls=request.num_calls,
            refresh_calls=plain.refresh_calls,
            planner=plain.planner or "from_file",
            interval=plain.interval,
            phases=plain.phases,
        )
        if plain.digest is not None and plain.digest != schedule.digest:
            raise ValueError(
                f"schedule.path={self.path}: the artefact's content does not match its digest {plain.digest[:12]}: it "
                'was edited or damaged. Delete its "digest", "kind" and "planner" to use it as a schedule of your own.'
            )
        return replace(schedule, phases=())

    def _read(self, num_calls: int) -> PlainSchedule:
        check_num_calls(num_calls)
        plain = read_plain(Path(self.path))
        if plain.num_calls is not None and plain.num_calls != num_calls:
            raise ValueError(
                f"schedule.path={self.path}: made for {plain.num_calls} calls, but this run has {num_calls}. "
                "Set budget.num_steps to match, or give a schedule of this many calls."
            )
        if plain.refresh_calls[-1] >= num_calls:
            raise ValueError(
                f"schedule.path={self.path}: refreshes at call {plain.refresh_calls[-1]}, but this run has "
                f"{num_calls} calls. Set budget.num_steps to match, or give a schedule of this many calls."
            )
        return plain
