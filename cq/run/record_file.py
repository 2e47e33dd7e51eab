"""The file of records, which only ever grows.

One JSON object a line, sealed (`cq.run.sealed`): a changed byte and a lost, repeated or moved line are found when the
file is read. A line counts once its newline is written. A last line without a newline was cut off when its writer was
killed: it is kept where it is a whole record, and dropped with a warning where it is not. The protocols of the scores
and the longer groups of the configurations lie beside the file, each once (`cq.run.apart`).

After an edit on purpose, or for a file of an earlier version: `cq-report --seal FILE...` seals the lines anew.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from cq.core.checksum import fingerprint_of
from cq.core.failures import writing
from cq.core.store import write_atomically
from cq.run.apart import ApartError, keep, kept, parted
from cq.run.record import EarlierLayoutError, RunRecord
from cq.run.sealed import count_file, counted, is_torn, opened, seal, unsealed, write_count, write_line

OWN_REMEDY = (EarlierLayoutError, ApartError)  # errors that sealing anew does not mend

log = logging.getLogger(__name__)


def append(record: RunRecord, path: Path) -> None:
    """Add one line and force it to the disk, under a lock, so that parallel runs never mix their lines.

    The folder of `path` is made where it is missing. A torn last line is repaired first (see the module's rule).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = _apart(record, path.parent)  # what it names first: a line is never without it
    with writing(path), _locked(path) as count:
        written = counted(path)  # refused, where it is broken, before there is a line
        with path.open("a+b") as file:
            before = _repair(file.fileno(), path)
            write_line(file.fileno(), seal(line, before))
        write_count(count, max(before, written) + 1)  # what is lost stays missed


def read(path: Path) -> list[RunRecord]:
    """Every record of a file, oldest first; the file is not changed.

    Raises FileNotFoundError where there is no file, and ValueError, with file and line, at a line that is no record,
    was changed, or does not stand where it was written, where what it names is missing, and where last lines are gone.
    A torn last line is left out with a warning.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such record file. Run an experiment first, or name another file.")
    written = counted(path)  # before the file: a line may be added in between
    records, apart = [], cache(partial(kept, path.parent))
    for number, line in enumerate(_lines(path)):
        try:
            records.append(RunRecord.from_json(opened(line, number), apart))
        except OWN_REMEDY as error:
            raise ValueError(f"{path}, line {number + 1}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number + 1}: {error} {_remedy(path)}") from error
    if len(records) < written:
        raise ValueError(
            f"{path}: holds {len(records)} records, and {count_file(path).name} says that {written} were written: the "
            f"last {written - len(records)} are lost. {_remedy(path)}"
        )
    return records


def reseal(path: Path) -> int:
    """Seal every line anew, after an edit on purpose or by an earlier version; return how many there are.

    Raises ValueError, and changes nothing, where a line is no record whatever its seal.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such record file. Name one.")
    with writing(path), _locked(path) as count:
        documents = [unsealed(line) for line in _lines(path)]
        records, apart = [], cache(partial(kept, path.parent))
        for number, document in enumerate(documents, 1):
            try:
                records.append(RunRecord.from_json(document, apart))
            except OWN_REMEDY as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error} Mend or delete the line.") from error
        lines = [seal(_apart(record, path.parent), before) for before, record in enumerate(records)]
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        write_count(count, len(lines))
    return len(lines)


def _remedy(path: Path) -> str:
    return f"Put the file back from a copy; or, to go on with what it holds now: cq-report --seal {path}"


def _apart(record: RunRecord, folder: Path) -> str:
    """The record as one line of JSON; what many share it names, and that is kept in `folder`."""
    document = json.loads(record.to_json())
    for name, score in document["scores"].items():
        own = fingerprint_of(score["protocol"])
        if score["fingerprint"] != own:
            raise ValueError(f"scores[{name!r}]: its protocol is {own}, not {score['fingerprint']}. Name its own.")
        keep(folder, "protocols", score.pop("protocol"))
    document["config"] = parted(document["config"], folder)
    return json.dumps(document, separators=(",", ":"))


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    # What is locked is the count: a file of its own outlives a replacement of the record file by an editor.
    lock = os.open(count_file(path), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _lines(path: Path) -> list[str]:
    """The lines of a file without their newlines; a torn last one is left out with a warning."""
    *whole, tail = path.read_bytes().decode(errors="surrogateescape").split("\n")
    if tail and is_torn(tail) and count_file(path).exists():
        log.warning("%s: dropped its last line, %d characters that a killed run left unfinished", path, len(tail))
    elif tail:  # a copy, which nobody was killed at, is checked to its end
        whole.append(tail)
    return whole


def _repair(descriptor: int, path: Path) -> int:
    """Make the file end in a newline, keeping a last line that only lacks it; return the number of lines."""
    content = path.read_bytes()
    *_, tail = content.rpartition(b"\n")
    lines = content.count(b"\n")
    if tail and is_torn(tail.decode(errors="surrogateescape")):
        log.warning("%s: dropped its last line, %d bytes that a killed run left unfinished", path, len(tail))
        os.ftruncate(descriptor, len(content) - len(tail))
    elif tail:
        os.write(descriptor, b"\n")
        lines += 1
    return lines
