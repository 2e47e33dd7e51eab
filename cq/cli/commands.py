"""How every command line ends: with one exit status, and in one sentence whatever went wrong."""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cq.core.failures import mendable, sentence
from cq.run.config import CONF, near
from cq.run.tables import experiments

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


def explain(error: Exception) -> str:
    """One line for an error of Hydra's, of the operating system's or of ours: key, value, rule and remedy."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        files = (CONF / group).rglob("*.yaml")
        choices = sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in files)
        options = experiments() if group == "experiment" else choices
        return f"{group}={name}: there is no such choice.{near(name, options)} Choose from: {', '.join(options)}."
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        given = re.search(r"use \+(.*)", str(error))
        keys = sorted(map(str, cause.parent_node))
        if "." not in str(cause.full_key):
            keys = sorted({*keys, *(p.name for p in CONF.iterdir() if p.is_dir())})
        return (
            f"{given.group(1) if given else cause.full_key}: there is no key {str(cause.key)!r}."
            f"{near(str(cause.key), keys)} Known keys here: {', '.join(keys)}."
        )
    if isinstance(cause, ValidationError):
        given = re.search(r"merging override (.*)", str(error))
        key = given.group(1) if given else cause.full_key
        return f"{key}: {str(cause).splitlines()[0].rstrip('.')}. Give a value of that type."
    if isinstance(error, OverrideParseException):
        reason = error.message.splitlines()[0]
        return (
            f"{error.override}: cannot be read ({reason}). Write key=value; a value with spaces, =, ~ or brackets goes "
            """into quotes twice: 'key="value"'."""
        )
    if "Config group override" in str(error):
        return "a group is set to something that is no choice, as in model=null. Write GROUP=NAME; --help lists them."
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return sentence(error)
    lines = [*str(error).splitlines(), *(str(cause).splitlines() if cause is not error else [])]
    told = [line.strip().rstrip(".:") for line in lines if line.strip() and "_type=" not in line]
    return f"{'; '.join(told)}. Correct it; --cfg job prints the configuration with all of its keys."
