"""The paper's own rows, of experiments/published.md: their commands, and what preflight reads, without any weights."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from cq.models.architecture import architecture
from tests.tiny_runs import composed
from tests.true_models import ARCHITECTURES

ROOT = Path(__file__).parents[1]
PUBLISHED = (ROOT / "experiments/published.md").read_text(encoding="utf-8")
TABLE = PUBLISHED[PUBLISHED.index("| row | command |") :].split("\n\n")[0]
COMMANDS = {line.split("|")[1].strip(): shlex.split(line.split("`")[1])[1:] for line in TABLE.splitlines()[2:]}


WRITTEN: dict[str, dict[str, Any]] = {  # by a conversion, and on the hub
    "vae": {"scaling_factor": 0.2}, "text_encoder": {"model_type": "clip_text_model"},
}  # fmt: skip


def chosen(arguments: list[str], key: str) -> str:
    """What a command says of a key."""
    return next(argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}="))


def command_of(model: str, protocol: str) -> list[str]:
    """The arguments of the one command that draws this protocol's images with this model."""
    found = [c for c in COMMANDS.values() if (chosen(c, "model"), chosen(c, "protocol")) == (model, protocol)]
    assert len(found) == 1, (model, protocol)
    return found[0]


def prepare(root: Path) -> None:
    """Models' folders with every configuration and no weights, prompts, and references that are there."""
    for model, name in ARCHITECTURES.items():
        for part, config in architecture(name).items():
            folder = root / "weights" / model / part
            folder.mkdir(parents=True)
            file = "scheduler_config.json" if part == "scheduler" else "config.json"
            config = {**config, **WRITTEN.get(part, {})}
            (folder / file).write_text(json.dumps(config))
        (root / "weights" / model / "tokenizer").mkdir()
    for name, count in (("coco5k", 5000), ("parti", 1632)):
        folder = root / "data/prompts" / name
        folder.mkdir(parents=True)
        (folder / "evaluation.txt").write_text("".join(f"scene {i}\n" for i in range(count)))
        (folder / "calibration.txt").write_text("another scene\n")
    (root / "data/adm").mkdir()
    for file in set(re.findall(r"data/adm/(\S+\.npz)", PUBLISHED)) | {"coco5k_300crop.npz"}:
        np.savez(root / "data/adm" / file, arr_0=np.zeros((2, 8, 8, 3), dtype=np.uint8))


def at(root: Path, arguments: list[str]) -> Any:
    """The configuration of a command, with everything that `prepare` made in its place."""
    places = [f"paths.{name}={root}/{name}" for name in ("store", "records", "data", "tracking")]
    weights = f"model.weights={root}/weights/{chosen(arguments, 'model')}"
    return composed([*arguments, *places, weights])[0]
