"""Try the components of your package or folder on the laws of their kinds: `cq-check my_package`, `cq-check ./folder`.

One line a law. The laws are those that every component of `cq` keeps; they are tried on tiny models of random weights,
in seconds each. Exit status 1 where one is broken.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cq.cli.commands import FAILED, REFUSED, ended
from cq.run.own import allow


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or any(word.startswith("-") for word in words):
        asked = bool({"--help", "-h"} & set(words))
        (sys.stdout if asked else sys.stderr).write(f"usage: {__doc__}")
        return 0 if asked else REFUSED
    return ended("cq-check", lambda: _check([word.removeprefix("cq.allow=") for word in words]))


def _check(words: Sequence[str]) -> int:
    asked = allow(*words)
    from cq.laws.kinds import verdicts
    from cq.laws.tiny import tiny_world

    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        world = tiny_world(Path(folder))
        for own in asked:
            for verdict in verdicts(own, world):
                count[verdict.state] += 1
                told = f": {verdict.told}" if verdict.told else ""
                sys.stdout.write(f"{verdict.state:8}{verdict.choice}: {verdict.law}{told}\n")
                sys.stdout.flush()
    if not count:
        raise ValueError(f"{' '.join(words)}: holds no component. Write yaml in conf/GROUP/ that names a class in it.")
    rest = "do not concern it or need what is not here"
    sys.stdout.write(f"{count['holds']} laws hold, {count['broken']} are broken, {count['untried']} {rest}\n")
    return FAILED if count["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
