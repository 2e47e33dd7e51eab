"""From a configuration to its line in the record file; a question that was answered is not asked again."""

import logging
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from cq.artifacts import digest_of
from cq.record import SCHEMA, RunRecord, append, latest, read

if TYPE_CHECKING:
    from cq.artifacts import SampleSet
    from cq.pipeline import RunOutcome

log = logging.getLogger(__name__)

IDENTITY = ("model", "calibrate", "cost", "schedule", "correct", "quantize", "sample", "metrics", "latency", "seed")
PACKAGES = ("torch", "diffusers", "torchmetrics", "clean-fid", "hydra-core", "numpy", "scipy")
THUMBNAILS = 10


def config_digest(config: DictConfig) -> str:
    """Names the question: every group that can change a number, resolved; not paths, logger or row label."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return digest_of({key: resolved[key] for key in IDENTITY})[:20]


def execute(config: DictConfig, choices: Mapping[str, str]) -> RunRecord:
    """Answer `config` from the record file if it is there, else run it, append its record and log it."""
    from cq.config import build
    from cq.pipeline import Components, run

    parts = Components.of(config)
    weights = parts.model.weights_digest()
    path = Path(config.paths.records)
    found = find(path, config, weights)
    if found is not None and not config.force:
        log.info("%s: already recorded in %s (force=true runs it again)", experiment_of(config), path)
        return found
    logger = build(config.logger, "logger")
    try:
        outcome = run(config)
    except Exception as error:
        append(_record(config, choices, weights, None, note=f"{type(error).__name__}: {error}"), path)
        raise
    thumbnails = path.parent / "thumbnails" / f"{outcome.images_digest[:16]}.png"
    write_strip(outcome.samples, thumbnails)
    record = _record(config, choices, weights, outcome, note="; ".join(outcome.missing.values()))
    append(record, path)
    logger.log_run(record, path.parent / record.thumbnails, Path(config.paths.tracking))
    return record


def find(path: Path, config: DictConfig, weights: str) -> RunRecord | None:
    """The last good record of the same question about the same weights."""
    if not path.exists():
        return None
    key = (experiment_of(config), config.seed, config_digest(config))
    same = [record for record in latest(read(path)) if record.key == key]
    good = [record for record in same if record.status == "ok" and record.model["weights_digest"] == weights]
    return good[-1] if good else None


def experiment_of(config: DictConfig) -> str:
    return f"{config.row.table}/{config.row.name}"


def write_strip(samples: "SampleSet", path: Path) -> None:
    """The first images side by side as a PNG."""
    from PIL import Image

    from cq.store import write_atomically

    images = samples.images_NCHW[:THUMBNAILS]
    strip = images.permute(1, 2, 0, 3).flatten(2)  # [C, H, N * W]
    array = strip[0].numpy() if strip.shape[0] == 1 else strip.permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    import io

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _record(
    config: DictConfig, choices: Mapping[str, str], weights: str, outcome: "RunOutcome | None", *, note: str
) -> RunRecord:
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    quantize, schedule = resolved["quantize"], resolved["schedule"]
    commit, clean = _commit()
    names = {
        "model": "model", "calibrate": "calibrate", "cost": "cost", "schedule": "schedule",
        "correct_cache": "correct@correct.cache", "correct_quant": "correct@correct.quant", "quantize": "quantize",
        "sample": "sample",
    }  # fmt: skip
    return RunRecord(
        schema=SCHEMA,
        experiment=experiment_of(config),
        table=config.row.table,
        row=config.row.order,
        label=config.row.label,
        paper_row=config.row.paper,
        choices={name: choices.get(group, "") for name, group in names.items()},
        budget={
            "num_steps": resolved["sample"]["num_steps"], "cache_interval": schedule.get("interval"),
            "weight_bits": quantize.get("weight_bits"), "act_bits": quantize.get("act_bits"),
        },
        seed=config.seed,
        config={str(key): value for key, value in resolved.items()},
        config_digest=config_digest(config),
        model={"name": choices.get("model", ""), "weights_digest": weights},
        commit=commit,
        clean_tree=clean,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        device=f"{platform.machine()} cpu",
        counted=outcome.counted if outcome else {},
        measured=outcome.measured if outcome else None,
        scores=outcome.scores if outcome else {},
        seconds=outcome.seconds if outcome else {},
        artifacts=outcome.digests if outcome else {},
        images_digest=outcome.images_digest if outcome else "",
        schedule={"num_calls": outcome.schedule.num_calls, "refresh_calls": list(outcome.schedule.refresh_calls)}
        if outcome else {},
        thumbnails=f"thumbnails/{outcome.images_digest[:16]}.png" if outcome else "",
        status="ok" if outcome else "failed",
        note=note,
    )  # fmt: skip


def _commit() -> tuple[str, bool]:
    """The commit of the source tree and whether it was clean; empty outside a repository."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "HEAD"), not git("status", "--porcelain", "--untracked-files=no", "--", "cq", "conf")
