"""Somebody else's package, installed and edited between sweeps: `python -m tests.own_runs WEIGHTS ROOT SITE FOLDER`.

SITE is where pip put it, FOLDER a copy of its sources. As in tests/killed_runs.py, one process imports, and every sweep
is a fork of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchmetrics.functional.image  # noqa: F401 - imported here, so that no fork has to

from cq.cli.run import main as cq
from cq.run.components import Components
from cq.run.context import Run
from cq.run.record_file import read
from tests.killed_runs import ended, fork
from tests.tiny_runs import composed, quick

CHOICES = ("schedule=geometric", "+metric@metrics.worst=worst_pixel")
NONE, BOTH, OURS = (f"correct@correct.cache={choices}" for choices in ("none", "none,part_of_offset", "part_of_offset"))
EDITS = (  # what is swept first, and then after an edit of each of these files: from, to
    ("first", BOTH, "", "", ""),
    ("the corrector edited", BOTH, "corrector.py", "self.share *", "self.share / 2 *"),
    ("the metric edited", NONE, "metric.py", ".amax(1)", ".amin(1)"),
    ("what the planner imports edited", NONE, "groups.py", "ratio**k", "ratio**-k"),
)


def swept(weights: Path, root: Path, log: Path, *arguments: str) -> dict[str, Any]:
    """What a sweep recorded, and the stages that it made and found."""
    records = root / "records.jsonl"
    before = len(read(records)) if records.exists() else 0

    def sweep() -> None:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")  # `fork` says where the log goes
        status = cq(["-m", f"hydra.sweep.dir={root}/sweep", *quiet, *CHOICES, *arguments, *quick(weights, root)])
        assert status == 0

    if not ended(fork(sweep, log)):
        raise RuntimeError(log.read_text() + log.with_suffix(".err").read_text())
    lines = [line.split() for line in log.read_text().splitlines()]
    new = read(records)[before:]
    return {
        "records": len(new),
        "overrides": [record.overrides[0] for record in new],
        "versions": [record.versions.get("my_ideas") for record in new],
        "refreshes": [list(record.schedule["refresh_calls"]) for record in new],
        "images": [record.images_digest for record in new],
        "worst": [record.scores["worst_pixel_fp"]["value"] for record in new],
        "made": [words[0] for words in lines if words[1:2] == ["done:"]],
    }


def main(weights: Path, root: Path, site: Path, folder: Path) -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)  # threads do not survive a fork
    Run(Components.of(composed(quick(weights, root, "schedule=uniform"))[0])).model  # noqa: B018 - for its imports
    told = {}
    for name, correct, file, old, new in EDITS:
        if file:
            path = site / "my_ideas" / file
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        told[name] = swept(weights, root / "installed", root / f"{name}.log", correct)
    sys.path.remove(str(site))
    told["a folder"] = swept(weights, root / "folder", root / "folder.log", f"cq.allow=[{folder}]", OURS)
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*map(Path, sys.argv[1:]))) + "\n")
