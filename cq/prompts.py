"""Make the folder of prompts that a text-to-image protocol asks for.

`python -m cq.prompts data/prompts/coco5k captions_val2017.json captions_train2017.json --count 5000`

The first source gives the evaluation prompts, the second those of calibration, which may share none with them. A source
is a file of yours or a data set of the hub, read by the package `datasets` (`pip install datasets`):

captions_*.json    MS-COCO's annotations: the first caption of each image, images by number
*.tsv              PartiPrompts: the column Prompt
*.txt              one prompt a line
hub:NAME/SPLIT     as hub:nateraw/parti-prompts/train; its column Prompt, caption or text
"""

import argparse
import csv
import hashlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cq.__main__ import REFUSED
from cq.store import write_atomically

log = logging.getLogger("cq.prompts")

COLUMNS = ("Prompt", "prompt", "caption", "text")


def read_source(source: str) -> list[str]:
    """The prompts of a source, in its order. Raises ValueError where it cannot be read as one."""
    if source.startswith("hub:"):
        return _from_hub(source)
    path = Path(source)
    readers = {".json": _from_coco, ".tsv": _from_table, ".txt": _from_lines}
    if path.suffix not in readers:
        raise ValueError(f"{source}: is none of {', '.join(readers)} and no hub:NAME/SPLIT. Give one of those.")
    if not path.is_file():
        raise ValueError(f"{source}: there is no such file. Download it first.")
    prompts = [" ".join(prompt.split()) for prompt in readers[path.suffix](path)]
    if not prompts:
        raise ValueError(f"{source}: holds no prompt.")
    return prompts


def write_prompts(folder: Path, evaluation: list[str], calibration: list[str]) -> str:
    """Write evaluation.txt and calibration.txt and return the SHA-256 of the former's prompts.

    Raises ValueError where a prompt of calibration is one of evaluation: those are refused, not dropped silently.
    """
    shared = set(evaluation) & set(calibration)
    if shared:
        raise ValueError(
            f"{len(shared)} prompts are in both sources, {min(shared)!r} among them, and nothing may be calibrated on "
            "what it is evaluated with. Give another source of calibration, or --drop-shared."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in (("evaluation", evaluation), ("calibration", calibration)):
        write_atomically(folder / f"{name}.txt", "".join(f"{prompt}\n" for prompt in prompts).encode())
    return hashlib.sha256("\n".join(evaluation).encode()).hexdigest()


def _from_coco(path: Path) -> Iterable[str]:
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        first: dict[int, str] = {}
        for entry in sorted(annotations, key=lambda entry: (entry["image_id"], entry["id"])):
            first.setdefault(entry["image_id"], entry["caption"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no file of MS-COCO captions ({error!r}). Give captions_val2017.json.") from error
    return first.values()


def _from_table(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return _column(list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)), str(path))


def _from_lines(path: Path) -> Iterable[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _from_hub(source: str) -> list[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{source}: needs the package datasets. Install it: pip install datasets") from error
    name, _, split = source.removeprefix("hub:").rpartition("/")
    if not name:
        raise ValueError(f"{source}: write hub:NAME/SPLIT, as in hub:nateraw/parti-prompts/train.")
    return [" ".join(prompt.split()) for prompt in _column(list(load_dataset(name, split=split)), source)]


def _column(rows: list[dict[str, Any]], source: str) -> list[str]:
    name = next((column for column in COLUMNS if rows and column in rows[0]), None)
    if name is None:
        raise ValueError(f"{source}: has no column {', '.join(COLUMNS)}. Write the prompts to a .txt, one a line.")
    return [str(row[name]) for row in rows]


def main() -> None:
    """Exit status 0, or 2 where the input is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m cq.prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what to make; model.prompts and protocol.prompts name it")
    parser.add_argument("evaluation", help="source of the evaluation prompts")
    parser.add_argument("calibration", help="source of the calibration prompts")
    parser.add_argument("--count", type=int, default=None, help="evaluation prompts to take, from the first on")
    parser.add_argument("--drop-shared", action="store_true", help="leave evaluation prompts out of calibration")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        evaluation = read_source(arguments.evaluation)
        calibration = read_source(arguments.calibration)
        if arguments.count is not None and not 1 <= arguments.count <= len(evaluation):
            raise ValueError(f"--count={arguments.count}: {arguments.evaluation} has {len(evaluation)} prompts.")
        evaluation = evaluation[: arguments.count]
        if arguments.drop_shared:
            calibration = [prompt for prompt in calibration if prompt not in set(evaluation)]
        digest = write_prompts(arguments.folder, evaluation, calibration)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"cq.prompts: {error}\n")
        raise SystemExit(REFUSED) from None
    log.info("%s: %d evaluation and %d calibration prompts", arguments.folder, len(evaluation), len(calibration))
    log.info("protocol.prompts_sha256=%s", digest)


if __name__ == "__main__":
    main()
