"""What a law of a component is: a function that tries one on tiny things, and says in a sentence where it fails."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cq.models.diffusion import DiffusionModel, ModelComponent

Make = Callable[..., Any]  # the component under test, built from its yaml; fields given by name are set in it


@dataclass(frozen=True)
class World:
    """What laws are tried on. folder: an empty one, to write in. components: tiny models of random weights, by name."""

    folder: Path
    components: "Mapping[str, ModelComponent]"

    @cached_property
    def models(self) -> "Mapping[str, DiffusionModel]":
        """The same, loaded."""
        return {name: component.load() for name, component in self.components.items()}


Law = Callable[[Make, World], None]


class Broken(AssertionError):  # noqa: N818 - no error of the program's
    """A law does not hold; the message says what was found and what to write."""


class Untried(Exception):  # noqa: N818 - nothing went wrong
    """A law says nothing of this component, or what it needs is not on this machine."""


def hold(good: object, told: str) -> None:
    """Raise Broken with that sentence unless it is good."""
    if not good:
        raise Broken(told)


def words(law: Law) -> str:
    """A law as its name says it."""
    return law.__name__.replace("_", " ")
