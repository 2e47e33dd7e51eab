"""How every command line ends: with one exit status, and in one sentence whatever went wrong."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cq.core.failures import mendable
from cq.run.explain import explain

FAILED, REFUSED, SIGNALLED = 1, 2, 128  # exit statuses; of a signal: 128 and its number, so 130 for Ctrl-C
UNREAD = SIGNALLED + signal.SIGPIPE
REFUSALS = (ValueError, HydraException, OmegaConfBaseException, OSError)


class Stopped(KeyboardInterrupt):
    """Somebody asked the command to stop: what Ctrl-C is to a terminal, a signal is to a scheduler."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def ended(program: str, work: Callable[[], int | None]) -> int:
    """Do the work of a command to its end, and return its exit status.

    0, or what the work says; 2 where the input is refused, 1 where something failed, 128 and more where a signal
    stopped it. What went wrong is one sentence on stderr; a traceback comes before it where only we can mend it, and
    instead of it where HYDRA_FULL_ERROR=1 asks for it.
    """
    try:
        with _signals():
            return work() or 0
    except KeyboardInterrupt as stop:
        say(program, "stopped. The same command goes on from here.")
        return SIGNALLED + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    except BrokenPipeError:  # whoever read our output, as `head`, has gone; nothing can be said to him
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Exception as error:
        refused = isinstance(error, REFUSALS)
        if refused and os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if not refused and not mendable(error):
            traceback.print_exception(error)
        say(program, explain(error))
        return REFUSED if refused else FAILED


def say(program: str, text: str) -> None:
    """One line on stderr, wherever that still goes."""
    with suppress(OSError):
        sys.stderr.write(f"{program}: {text}\n")


def helped(arguments: Sequence[str], text: str | None) -> bool:
    """Whether --help is among the arguments; if so `text`, the command's, is printed."""
    asked = not {"-h", "--help"}.isdisjoint(arguments)
    if asked:
        sys.stdout.write(f"usage: {text}")
    return asked


@contextmanager
def _signals() -> Iterator[None]:
    """What ends a process ends the block as Ctrl-C does, unless it is ignored (nohup) or somebody's else."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    main = threading.current_thread() is threading.main_thread()
    ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
