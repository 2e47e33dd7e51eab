"""Make the folder of prompts that a text-to-image protocol asks for.

`cq-prompts data/prompts/coco5k captions_val2017.json captions_train2017.json --count 5000`

The first source gives the evaluation prompts, the second those of calibration, which may share none with them. A source
is a file of yours or a data set of the hub, read by the package `datasets` (`pip install datasets`):

captions_*.json    MS-COCO's annotations, images by number; or a list of prompts, or of rows with their columns
*.tsv, *.csv       a table with a column Prompt, as PartiPrompts; quoted as spreadsheets do, or not at all (tsv)
*.txt              one prompt a line
hub:NAME/SPLIT     as hub:nateraw/parti-prompts/train

Columns are Prompt, caption or text. Of an image's captions the first is taken. Spaces, tabs and breaks within a prompt
become one space. Rows without a prompt are left out, and said.
"""

import argparse
import csv
import io
import json
import logging
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cq.cli.commands import ended
from cq.core.store import write_atomically
from cq.models.captions import COLUMNS, decoded, digest, flaw, is_blank, is_null, read_lines, repeated, shared

log = logging.getLogger("cq.cli.prompts")

IMAGES = ("image_id", "image", "image_name", "file_name", "filename", "filepath", "cocoid", "imgid")


class Caption(NamedTuple):
    """A cell that should hold a prompt. where: in words. image: whose caption it is, None where it is of none."""

    where: str
    image: Hashable
    cell: Any


def read_source(source: str) -> list[str]:
    """The prompts of a source, in its order. Raises ValueError where it cannot be read as one."""
    if source.startswith("hub:"):
        captions = _from_hub(source)
    else:
        path = Path(source)
        readers = {".csv": _from_table, ".json": _from_json, ".tsv": _from_table, ".txt": _from_lines}
        if path.suffix.lower() not in readers:
            raise ValueError(f"{source}: is none of {', '.join(readers)} and no hub:NAME/SPLIT. Give one of those.")
        if not path.is_file():
            raise ValueError(f"{source}: there is no such file. Download it first.")
        captions = readers[path.suffix.lower()](path)
    prompts = []
    had: set[Hashable] = set()
    empty: list[str] = []
    further = 0
    for where, image, cell in captions:
        prompt = _text(cell, f"{source}: {where}")
        if image in had:
            further += 1
        elif prompt is None:
            empty.append(where)
        elif why := flaw(prompt):
            raise ValueError(f"{source}: {where} {why}")
        else:
            prompts.append(prompt)
            if image is not None:
                had.add(image)
    if empty:
        log.warning("%s: %d without a prompt are left out: %s", source, len(empty), ", ".join(empty[:5]))
    if further:
        log.info("%s: the first caption of each image is taken, and %d further ones are not", source, further)
    if not prompts:
        raise ValueError(f"{source}: holds no prompt. Give a source with some.")
    return prompts


def write_prompts(folder: Path, evaluation: list[str], calibration: list[str]) -> str:
    """Write evaluation.txt and calibration.txt and return the SHA-256 of the former's prompts.

    Raises ValueError where a prompt of calibration is one of evaluation: those are refused, not dropped silently.
    """
    if both := shared(evaluation, calibration):
        raise ValueError(
            f"{len(both)} prompts are in both sources, {min(both)!r} among them, and nothing may be calibrated on "
            "what it is evaluated with. Give another source of calibration, or --drop-shared."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in (("evaluation", evaluation), ("calibration", calibration)):
        write_atomically(folder / f"{name}.txt", "".join(f"{prompt}\n" for prompt in prompts).encode())
    return digest(evaluation)


def _text(cell: Any, where: str) -> str | None:
    """The prompt in a cell, the first of several; None where it is empty."""
    if isinstance(cell, list | tuple):
        found = (_text(entry, where) for entry in cell)
        return next((text for text in found if text is not None), None)
    if cell is None or cell != cell:  # NaN
        return None
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise ValueError(f"{where} holds {type(cell).__name__}, and a prompt is text. Give a column of text.")
    text = " ".join(str(cell).replace("\ufeff", "").split())
    return None if is_blank(text) or is_null(text) else text


def _from_lines(path: Path) -> Iterator[Caption]:
    return (Caption(f"line {i}", None, prompt) for i, prompt in enumerate(read_lines(path), start=1))


def _from_json(path: Path) -> Iterator[Caption]:
    """Captions as in MS-COCO's file, or a list."""
    try:
        stored = json.loads(decoded(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error}). Give captions_val2017.json, or a list of prompts.") from error
    if isinstance(stored, list):
        if all(isinstance(row, Mapping) for row in stored):
            return _column(stored, str(path))
        return (Caption(f"entry {i}", None, prompt) for i, prompt in enumerate(stored, start=1))
    try:
        rows = sorted(stored["annotations"], key=lambda row: (row["image_id"], row["id"]))
        return iter([Caption(f"image {row['image_id']}", row["image_id"], row["caption"]) for row in rows])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no file of MS-COCO captions ({error!r}). Give captions_val2017.json.") from error


def _from_table(path: Path) -> Iterator[Caption]:
    text = decoded(path)
    head = next(iter(io.StringIO(text)), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    rows = [row for row in _parsed(text, delimiter, path) if row]
    if not rows:
        raise ValueError(f"{path}: holds no prompt. Give a table with some.")
    names = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) == 1 < len(names) or any(map(str.strip, row[len(names) :])):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells of {len(names)} ({row[0]!r}), as where a prompt is broken "
                "in two, or a cell is missing. Quote the prompt, or delete the row."
            )
    return _column([dict(zip(names, row, strict=False)) for row in rows[1:]], str(path), names=names, first=2)


def _parsed(text: str, delimiter: str, path: Path) -> list[list[str]]:
    """The rows of a table whose quoting is that of spreadsheets, or none at all.

    Raises ValueError where it is neither, or cannot be known: of a cell in needless quotes they may be its own.
    """

    def read(**how: Any) -> list[list[str]]:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **how))

    try:
        plain = read(quoting=csv.QUOTE_NONE)
        try:
            rows = read(strict=True)
        except csv.Error as error:
            cells = [cell for row in plain for cell in row]
            if delimiter != "\t" or any(re.fullmatch(r'".*"', cell) and '""' in cell[1:-1] for cell in cells):
                raise ValueError(
                    f"{path}: its quoting is broken ({error}). Save it again with every cell quoted, or write the "
                    "prompts to a .txt, one a line."
                ) from error
            return plain
    except csv.Error as error:
        raise ValueError(f"{path}: is no table ({error}). Write the prompts to a .txt, one a line.") from error
    cells = [cell for row in rows for cell in row]
    if swallowed := next((cell for cell in cells if delimiter == "\t" in cell and "\n" in cell), None):
        raise ValueError(
            f"{path}: the cell {swallowed[:60]!r} runs over several rows: a quote opens and is not closed. Close it, "
            "or write the prompts to a .txt, one a line."
        )
    proven = '""' in text or any(cell.startswith('"') for row in plain[:1] for cell in row) or len(plain) > len(rows)
    needless = [cell for row in plain for cell in row if re.fullmatch(r'"[^",;\s](?:[^",;]*[^",;\s])?"', cell)]
    if needless and not proven:
        raise ValueError(
            f"{path}: {needless[0]} is quoted and need not be, so the quotes may belong to it. Save the table with "
            "every cell quoted, or write the prompts to a .txt, one a line."
        )
    return rows


def _from_hub(source: str) -> Iterator[Caption]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{source}: needs the package datasets. Install it: pip install datasets") from error
    name, _, split = source.removeprefix("hub:").rpartition("/")
    if not name:
        raise ValueError(f"{source}: write hub:NAME/SPLIT, as in hub:nateraw/parti-prompts/train.")
    try:
        rows = list(load_dataset(name, split=split))
    except Exception as error:  # of the network, of the hub, or of the package
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{source}: cannot be had ({reason}). Look up name and split, or download the prompts and give their file."
        ) from error
    return _column(rows, source)


def _column(
    rows: Iterable[Mapping[str, Any]], source: str, *, names: Iterable[str] | None = None, first: int = 1
) -> Iterator[Caption]:
    """The cells of the first column of prompts. first: the number of the first row."""
    rows = list(rows)
    known = {name.strip().lower(): name for name in reversed(list(names or (rows[0] if rows else ())))}
    prompt = next((known[column] for column in COLUMNS if column in known), None)
    if prompt is None:
        raise ValueError(
            f"{source}: has no column Prompt, caption or text, but {', '.join(known.values()) or 'none'}. Write the "
            "prompts to a .txt, one a line."
        )
    if names and list(names).count(prompt) > 1:
        raise ValueError(f"{source}: has several columns {prompt}. Leave one, or rename the others.")
    image = next((known[column] for column in IMAGES if column in known), None)
    for number, row in enumerate(rows, start=first):
        whose = row.get(image) if image is not None else None
        yield Caption(f"row {number}", whose if isinstance(whose, str | int) else None, row.get(prompt))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `cq.cli.commands.ended`."""
    parser = argparse.ArgumentParser(
        prog="cq-prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what to make; model.prompts and protocol.prompts name it")
    parser.add_argument("evaluation", help="source of the evaluation prompts")
    parser.add_argument("calibration", help="source of the calibration prompts")
    parser.add_argument("--count", type=int, default=None, help="evaluation prompts to take, from the first on")
    parser.add_argument("--drop-shared", action="store_true", help="leave evaluation prompts out of calibration")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return ended("cq-prompts", lambda: _make(given))


def _make(arguments: argparse.Namespace) -> None:
    evaluation = read_source(arguments.evaluation)
    calibration = read_source(arguments.calibration)
    if arguments.count is not None and not 1 <= arguments.count <= len(evaluation):
        raise ValueError(f"--count={arguments.count}: {arguments.evaluation} has {len(evaluation)} prompts.")
    evaluation = evaluation[: arguments.count]
    if arguments.drop_shared:
        both = set(shared(evaluation, calibration))
        calibration = [prompt for prompt in calibration if prompt not in both]
        if not calibration:
            raise ValueError(f"{arguments.calibration}: has no prompt beside those of evaluation. Give another.")
    written = write_prompts(arguments.folder, evaluation, calibration)
    log.info("%s: %d evaluation and %d calibration prompts", arguments.folder, len(evaluation), len(calibration))
    if again := repeated(evaluation):
        log.info("%d evaluation prompts are there more than once; each line is drawn", again)
    log.info("protocol.prompts_sha256=%s", written)


if __name__ == "__main__":
    sys.exit(main())
