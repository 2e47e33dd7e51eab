"""A planner and those inside it: what they read is what it reads."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # brings torch, which a check of a configuration does not need
    from cq.core.planning import SchedulePlanner


def members(planner: "SchedulePlanner") -> "tuple[SchedulePlanner, ...]":
    """The planner first, then those of its `candidates`, a mapping where it has one."""
    inside = getattr(planner, "candidates", {}).values()
    return (planner, *(member for candidate in inside for member in members(candidate)))
