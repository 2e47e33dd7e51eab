"""Lines that vouch for themselves and for each other: how the record file finds whatever happens to it.

A sealed line is a JSON object whose last two keys say how many lines come `before` it and the `checksum` of all that
stands before that key. So a changed byte, a lost, repeated or moved line is found, and named by its number. That the
last lines are gone no line can tell: FILE.count beside the file says how many there were. It is written after the line
it counts, so that a kill between the two leaves it behind the file, never ahead.
"""

import hashlib
import json
import os
import re
from pathlib import Path

_CHECKSUM = r', ?"checksum": ?"'  # earlier versions wrote blanks
_DIGITS = 16  # of SHA-256, in hexadecimal
_LAST = re.compile(rf"(.*){_CHECKSUM}(.*)", re.DOTALL)
_SEAL = re.compile(rf', ?"before": ?(\d+){_CHECKSUM}[0-9a-f]*"}}$')


def seal(document: str, before: int) -> str:
    """The JSON object `document` as the line behind `before` others, without its newline."""
    body = f'{document[:-1]},"before":{before}'
    return f'{body},"checksum":"{_digest(body)}"}}'


def unsealed(line: str) -> str:
    """The JSON object in a line, with or without a seal, which is not looked at."""
    return _SEAL.sub("}", line)


def opened(line: str, before: int) -> str:
    """The JSON object in the sealed line that stands behind `before` others. Raises ValueError where it is not that."""
    last, sealed = _LAST.fullmatch(line), _SEAL.search(line)
    if not last:
        raise ValueError("carries no checksum: it was changed, or an earlier version wrote it.")
    if not sealed or last[2] != _digest(last[1]) + '"}':
        raise ValueError("its checksum does not fit: it was changed after it was written.")
    if int(sealed[1]) != before:
        raise ValueError(
            f"was written behind {sealed[1]} others and stands behind {before}: lines were lost, added or moved."
        )
    return unsealed(line)


def is_torn(line: str) -> bool:
    """Whether this end of a file, which no newline closes, is the beginning of a line whose writer was killed."""
    last = _LAST.fullmatch(line)
    if last and len(last[2]) >= _DIGITS + len('"}'):
        return False
    try:
        return not isinstance(json.loads(line), dict)  # without its last brace no object can be read
    except ValueError:
        return True


def counted(path: Path) -> int:
    """How many lines were written to the file at `path`.

    0 where nobody counted, as beside a copy, and where there is no such file: who deletes it begins anew.
    """
    file = count_file(path)
    try:
        return int(file.read_text() or 0) if file.exists() and path.exists() else 0
    except ValueError as error:
        raise ValueError(f"{file}: is not the number of lines in {path.name}. Delete it.") from error


def count_file(path: Path) -> Path:
    """Where the count of the file at `path` stands."""
    return path.with_name(f"{path.name}.count")


def write_line(descriptor: int, line: str) -> None:
    """Write a line at the end of its open file, and force it to the disk."""
    view = memoryview(f"{line}\n".encode())
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def write_count(descriptor: int, lines: int) -> None:
    """Write the count into its open file."""
    text = f"{lines}\n".encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
