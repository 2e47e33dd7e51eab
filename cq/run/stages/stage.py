"""What every stage of a run is: the one owner of its key, its making, and what it takes in seconds and bytes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from cq.core.acceleration import Acceleration
from cq.core.artifacts import Artifact
from cq.run.context import Run
from cq.run.costs import CallBytes, CallSeconds

A = TypeVar("A", bound=Artifact)
Parts = Callable[[Path, Sequence[int]], Iterable[object]]


class Stage(ABC, Generic[A]):
    """Loads or makes one artefact, with every process of the run at work.

    name: of the folder in the store and of the seconds in a record. batch_of: the component whose batch decides the
    peak memory. decided_by: the components that its result depends on beside model, sampler, steps and seed, where its
    key is not known beforehand, so that a table's plan counts what several rows share once.
    """

    name: ClassVar[str]
    batch_of: ClassVar[str] = ""
    decided_by: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        self.run = run
        self.parts = run.parts

    @property
    @abstractmethod
    def kind(self) -> type[A]:
        """What it makes."""

    @abstractmethod
    def key(self, before: Acceleration) -> Mapping[str, Any]:
        """JSON of what determines the artefact, beside the origin. before: what the stages so far have made."""

    @abstractmethod
    def make(self, before: Acceleration, shards: Path) -> A:
        """Compute it. shards: a folder for finished pieces, which survives a kill."""

    def share(self, before: Acceleration) -> None:
        """Before `make`, in every process: do this process's part of the pieces."""

    def get(self, before: Acceleration) -> A:
        """The artefact: from the store if it is there."""
        self.share(before)
        return self.run.store.get(
            self.name, self.whole_key(before), self.kind, lambda shards: self.make(before, shards)
        )

    def whole_key(self, before: Acceleration) -> Mapping[str, Any]:
        """The key with the origin."""
        return {**self.run.origin, **self.key(before)}

    def folder(self, before: Acceleration) -> Path:
        """Where the store keeps it."""
        return self.run.store.folder(self.name, self.whole_key(before), self.kind)

    def share_out(self, before: Acceleration, parts: Parts, items: Sequence[int]) -> None:
        """Let every process make those of the pieces that are its own."""

        def work(shards: Path) -> None:
            for _ in parts(shards, self.run.store.processes.share_of(items)):
                pass

        self.run.store.share(self.name, self.whole_key(before), self.kind, work)

    @property
    def needed(self) -> bool:
        """Whether a run of these components computes anything here."""
        return True

    def seconds(self, calls: CallSeconds) -> float:
        """About how long it takes where nothing is in the store."""
        return 0.0

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        """Peak where the network runs, beyond the process with its model loaded; by name of what needs it."""
        return {}


class Part(Stage[A]):
    """A stage whose artefact is one part of the Acceleration. field: which."""

    field: ClassVar[str]

    def after(self, before: Acceleration) -> Acceleration:
        """What the stages so far have made, and this one's part."""
        return self.joined(before, self.get(before))

    def joined(self, before: Acceleration, made: A) -> Acceleration:
        """What the stages so far have made, with this one's artefact."""
        part: Any = {self.field: made}
        return replace(before, **part)
