"""The processes that share a run: this one alone, unless `accelerate launch` or `torchrun` started several.

Processes never exchange tensors. Each does its part of the work by index and writes shards into the store, which all
of them see; what they say to each other is only that a step is over, or that somebody failed. So a result cannot
depend on how many they are, and one machine or many on a shared file system make no difference.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # brings torch, which a look at a configuration does not need
    import torch

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)  # the others wait for what the main process does alone


class PeerError(RuntimeError):
    """Another process of this run failed; its own message is in this one's."""


class Processes:
    """This process among `count`, as number `index`; number 0 is the main one, which alone publishes and records."""

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self._apart = count == 1
        self._failed = False

    @property
    def is_main(self) -> bool:
        return self.index == 0

    @property
    def apart(self) -> bool:
        """Whether nobody else takes part in what runs now."""
        return self._apart

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the work; all of it where nobody else takes part."""
        return items if self._apart else items[self.index :: self.count]

    def begin(self) -> None:
        """Forget a failure that all processes know of: another run begins."""
        self._failed = False

    def told(self, value: T) -> T:
        """The main process's value, everywhere."""
        answer: T = self._exchange(None, value)[0]
        return answer

    def agreed(self, arithmetic: Mapping[str, Any]) -> Mapping[str, Any]:
        """How all compute. Raises ValueError, in everyone, where one computes otherwise than the main process."""
        with self.step():
            told = self.told(arithmetic)
            if told != arithmetic:
                raise ValueError(
                    f"process {self.index} computes with {dict(arithmetic)}, the main one with {dict(told)}: parts of "
                    "one run would be rounded in two ways. Start all on machines of a kind, with one OMP_NUM_THREADS."
                )
        return told

    @contextmanager
    def step(self) -> Iterator[None]:
        """Leave the block together; where it raised in one process, it raises in every one (PeerError)."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._exchange(error, None)
            raise
        self._exchange(None, None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What this process does while the others wait for it: nothing in the block is shared."""
        before, self._apart = self._apart, True
        try:
            yield
        finally:
            self._apart = before

    def _exchange(self, error: Exception | None, value: Any) -> list[Any]:
        """Everybody's value. Raises PeerError where another process brought an error; one's own is for the caller."""
        if self._apart:
            return [value]
        said = "" if error is None else f"process {self.index}: {type(error).__name__}: {error}"
        answers = self._gather(said, value)
        told = [text for text, _ in answers if text]
        self._failed = self._failed or bool(told)
        if told and error is None:
            raise PeerError("; ".join(told))
        return [answer for _, answer in answers]

    def _gather(self, said: str, value: Any) -> list[tuple[str, Any]]:
        from accelerate.utils import gather_object

        _state()
        answers: list[tuple[str, Any]] = gather_object([(said, value)])
        if len(answers) != self.count:
            raise RuntimeError(f"{len(answers)} of {self.count} processes are connected: accelerate was set up before.")
        return answers


@cache
def here() -> Processes:
    """This process among those that were started together, by torchrun's variables."""
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def device() -> "torch.device":
    """Where networks run: accelerate's choice for this process.

    Apple's GPUs have no float64, which the statistics are summed in: there it is the CPU.
    """
    chosen: torch.device = _state().device
    return chosen


def arithmetic() -> dict[str, Any]:
    """What rounding depends on beside the software: the kind of device, the CPU's instructions in use, its threads."""
    import torch

    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return {"device": name, "cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _state() -> Any:
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    found = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = found is None or found.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU")
    waiting = {"timeout": LONGEST_WAIT} if here().count > 1 else {}
    return PartialState(cpu=on_cpu, **waiting)
