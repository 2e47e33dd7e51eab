"""`cq-convert MODEL CHECKPOINT FOLDER`: an original LDM checkpoint, once, to a folder in diffusers' layout.

Which of the checkpoint's weights are taken stands in conf/model/MODEL.yaml (`release.ema`); `--ema` overrides it.
"""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cq.cli.commands import ended
from cq.core.checksum import file_digest
from cq.core.failures import writing
from cq.core.store import check_writable
from cq.models.release import PROVENANCE, Release
from cq.run.compose import component
from cq.run.config import CONF

log = logging.getLogger("cq")


def convert_file(checkpoint: Path, folder: Path, name: str, *, ema: bool) -> None:
    """Write `folder` whole or not at all, and into it what it was made of.

    name: of the architecture. Raises ValueError for a folder that is there, and for a checkpoint that does not fit.
    """
    from cq.models.architecture import architecture
    from cq.models.original import convert, read_checkpoint

    parts = architecture(name)
    if folder.exists():
        raise ValueError(f"folder={folder}: is there already. Name another one, or delete it.")
    if not checkpoint.is_file():
        raise ValueError(f"checkpoint={checkpoint}: there is no such file. Download it first.")
    check_writable(folder.parent, "folder")
    state = read_checkpoint(checkpoint)
    try:
        made = convert(state, parts, ema=ema)
    except ValueError as error:
        raise ValueError(f"checkpoint={checkpoint} as {name}: {error}") from error
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        for part, module in made.items():
            with writing(temporary / part):
                module.save_pretrained(temporary / part)
        document = {"architecture": name, "checkpoint_sha256": file_digest(checkpoint), "ema": ema}
        (temporary / PROVENANCE).write_text(json.dumps(document, indent=1) + "\n")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`."""
    parser = argparse.ArgumentParser(prog="cq-convert", description=__doc__)
    parser.add_argument("model", help="a choice of conf/model that has an original checkpoint, as ldm_church256")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ema", choices=("true", "false"), help="instead of what the model's yaml says")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return ended("cq-convert", lambda: _convert(given.model, given.checkpoint, given.folder, given.ema))


def _convert(model: str, checkpoint: Path, folder: Path, given_ema: str | None) -> None:
    models = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    release = _release(model) if model in models else None
    if release is None or release.architecture is None:
        originals = [name for name in models if (found := _release(name)) and found.architecture]
        raise ValueError(f"model={model}: has no original checkpoint to convert. Choose from: {', '.join(originals)}.")
    ema = bool(release.ema) if given_ema is None else given_ema == "true"
    convert_file(checkpoint, folder, release.architecture, ema=ema)
    log.info("%s: written. Use it with: cq model=%s model.weights=%s", folder, model, folder)


def _release(model: str) -> Release | None:
    """Where the weights of a model come from."""
    return getattr(component(f"model={model}"), "release", None)


if __name__ == "__main__":
    sys.exit(main())
