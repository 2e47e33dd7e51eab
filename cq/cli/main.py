"""The command `cq`: its first word names a command, as in `cq table table5`; without one it is `cq run`.

Imports only what the command needs that is asked for: a page of help comes at once.
"""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

# Every command, what it does, and its module cq/cli/NAME.py, whose `main(arguments) -> exit status` it calls. Each but
# `run` is also a program of its own, cq-NAME, where pyproject.toml lists it.
COMMANDS: Mapping[str, str] = {
    "run": "one configuration, or with -m a grid of them; the word itself may be left out",
    "table": "every row of a table of conf/table, then its report",
    "plan": "what a run will take: hours, memory, disk; starts nothing",
    "report": "tables and figures from run records",
    "store": "what lies in the store, which runs need it; prune it, export images and bundles",
    "doctor": "whether this machine has what runs need, and what to do where it has not",
    "tune": "the fastest configuration within a quality, or the best one at a cost; a search finds it",
    "bench": "time and memory of engines side by side, measured",
    "score": "score images made elsewhere",
    "check": "components of a package or a folder of yours, by the laws of their kinds",
    "convert": "an original LDM checkpoint, once, to a folder in diffusers' layout",
    "prompts": "the folder of prompts that a text-to-image protocol asks for",
}
REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else ""
    asks_help = not {"-h", "--help"}.isdisjoint(given)
    if first in COMMANDS and not (first == "run" and asks_help):
        return command(first)(given[1:])
    if not given or asks_help or first in ("help", "--choices"):
        return command("help")(given)
    if not first.startswith(("-", "~")) and "=" not in first:
        close = difflib.get_close_matches(first, COMMANDS, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        sys.stderr.write(
            f"cq: {first}: is no command, and no override, which would be KEY=VALUE.{meant} Commands are "
            f"{', '.join(COMMANDS)}.\n"
        )
        return REFUSED
    return command("run")(given)


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What a command of the list does, by the arguments after its name; returns its exit status."""
    does: Callable[[Sequence[str]], int] = import_module(f"cq.cli.{name}").main
    return does


if __name__ == "__main__":
    sys.exit(main())
