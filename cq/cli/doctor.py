"""Whether this machine has what runs need, and what to do where it has not: `cq doctor [--thorough]`.

Looks at Python, packages, device, instruction set, disk, the weights of every model and judge, and W&B, in a second or
two and without a network. --thorough imports PyTorch and tries every engine on the bundled model, too.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from cq.cli.commands import FAILED, ended
from cq.report.terminal import WIDTH, width_here
from cq.run.health import Finding, findings

MARKS = {"ok": "ok", "note": "-", "problem": "PROBLEM"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: 1 where there is a problem; else see `cq.cli.commands.ended`."""
    parser = argparse.ArgumentParser(
        prog="cq-doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--thorough", action="store_true", help="try PyTorch, its device and every engine")
    parser.add_argument("--store", type=Path, default=Path("runs/store"), metavar="FOLDER", help="default: runs/store")
    given = parser.parse_args(arguments)
    return ended("cq-doctor", lambda: _tell(_looked(given.store, thorough=given.thorough), thorough=given.thorough))


def _looked(store: Path, *, thorough: bool) -> Iterator[Finding]:
    yield from findings(store)
    if thorough:
        from cq.run.selftest import tried

        yield from tried()


def _tell(found: Iterator[Finding], *, thorough: bool) -> int:
    width = min(width_here(), WIDTH)
    problems = 0
    for finding in found:
        problems += finding.state == "problem"
        text = finding.said + (f". {finding.remedy}" if finding.remedy else "")
        lines = textwrap.wrap(text, max(width - 26, 40), break_long_words=False, break_on_hyphens=False)
        head = f"{MARKS[finding.state]:7}  {finding.name:16} "
        sys.stdout.write(f"{head} " + f"\n{'':26}".join(lines) + "\n")
        sys.stdout.flush()
    more = "" if thorough else " cq doctor --thorough tries PyTorch and the engines, too."
    sys.stdout.write(f"{f'{problems} problems' if problems else 'No problem'}.{more}\n")
    return FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
