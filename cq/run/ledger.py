"""From a configuration to its line in the record file; a question that was answered is not asked again."""

import io
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cq import __version__
from cq.core.checksum import digest_of
from cq.core.failures import mendable, sentence
from cq.core.processes import here
from cq.core.store import Store, locked, write_atomically
from cq.models.diffusion import UnusableModelError
from cq.run import identity
from cq.run.components import Components
from cq.run.config import place
from cq.run.identity import beside
from cq.run.origin import PACKAGE, Source
from cq.run.own import said as allowed
from cq.run.record import BESIDE, SCHEMA, RunRecord, latest
from cq.run.record_file import append, read
from cq.run.telling import ended
from cq.run.tracking import NoLogger, RunLog
from cq.run.unread import unread

if TYPE_CHECKING:  # these bring torch, which a refusal or a look into the records does not need
    from cq.core.artifacts import SampleSet
    from cq.run.outcome import RunOutcome

log = logging.getLogger(__name__)

IDENTITY = (  # groups that can change a number
    "model", "sampler", "cache", "predict", "calibrate", "cost", "schedule", "correct", "quantize", "engine", "compute",
    "baseline", "sample", "metrics", "protocol", "latency", "seed",
)  # fmt: skip
PACKAGES = ("torch", "diffusers", "torchmetrics", "clean-fid", "hydra-core", "numpy", "scipy")
DATE = "%Y-%m-%dT%H:%M:%SZ"  # UTC; sorts as the moments do
THUMBNAILS = 10
REPOSITORY = PACKAGE.parent


class RunError(Exception):
    """A stage raised, and the failed run is in the record file. mendable: the user can remove the cause."""

    def __init__(self, record: RunRecord, cause: Exception) -> None:
        super().__init__(f"{record.label}: {sentence(cause)}")
        self.record = record
        self.mendable = mendable(cause)


def config_digest(config: DictConfig) -> str:
    """Names the question: every group that can change a number, resolved; not paths, logger or row label.

    Files that it names count with their content, and code that is not the committed one counts (`cq.run.identity`).
    """
    question = question_of(_resolved(config))
    return digest_of(question | beside(question))[:20]


def question_of(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The groups that can change a number. A key younger than records is left out at its default."""
    question = {key: resolved[key] for key in IDENTITY}
    compute = {key: value for key, value in question["compute"].items() if (key, value) != ("precision", "highest")}
    return {**question, "compute": compute}


def execute(
    config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str] = (), *, warn: bool = True
) -> RunRecord:
    """Answer `config` from the record file if it is there, else run it, append its record and log it.

    A row of another table that asked the same question has answered it, too: its record is written under this name.
    overrides: of the command line. warn: say those of them that nothing reads.
    Raises ValueError, before anything expensive, for what cannot work, and RunError where a stage failed.
    """
    processes = here()
    processes.begin()
    parts = Components.of(config)
    for said in unread(config, parts, overrides).values() if warn else ():
        log.warning("%s", said)
    weights = parts.model.weights_digest()
    path, tracking = place(config, "records"), place(config, "tracking")
    ask = processes.is_main and not config.force
    found = processes.told(find(known(path), config, weights) if ask else None)
    logger = parts.logger if processes.is_main else NoLogger()
    logger.finish_open(tracking, found)
    if found is not None:
        log.info("%s: already recorded in %s (force=true runs it again)", experiment_of(config), path)
        return found
    source = Source.now()
    check_committed(path, source)
    everywhere = known_in_all_tables(path, config.row.table) if ask else []
    other = processes.told(find(everywhere, config, weights, any_row=True))
    asked = _asked(config, choices, overrides)
    if other is not None:
        log.info("%s: has been answered by %s (force=true runs it again)", experiment_of(config), other.experiment)
        twin = replace(other, seconds={}, **asked)
        with processes.step():
            if processes.is_main:
                append(twin, path)
                with logger.run(asked, path.parent, tracking) as live:
                    live.finish(twin)
        return twin
    from cq.run.evaluation import check_limit
    from cq.run.memory import within_budget
    from cq.run.pipeline import check_seconds, check_trajectory

    check_trajectory(parts)
    parts = within_budget(parts)
    check_limit(parts, config.limit)
    check_seconds(parts, config.limit.seconds, anew=config.force)
    if config.force:
        again = {"question": config_digest(config), "weights": weights, "commit": source.commit, **_versions()}
        parts = replace(parts, store=Store(parts.store.root, again=digest_of(again)[:12]))
    with logger.run(asked, path.parent, tracking) as live:
        return _made(config, choices, asked, parts, weights, source, live)


def _made(
    config: DictConfig, choices: Mapping[str, str], asked: Mapping[str, Any], parts: Components, weights: str,
    source: Source, live: RunLog,
) -> RunRecord:  # fmt: skip
    """Run it and append its record. Raises as `execute`."""
    from cq.run.pipeline import run

    processes, path = parts.store.processes, place(config, "records")
    made: RunRecord | None = None
    try:
        outcome = run(parts, live)
        with processes.step():
            if outcome is not None:  # in the main process
                write_strip(outcome.samples, path.parent / "thumbnails" / f"{outcome.images_digest[:16]}.png")
                note = "; ".join(outcome.missing.values())
                made = _record(config, choices, asked, weights, outcome, source, note=note)
                with locked(path.parent / "thumbnails" / ".lock"):  # of two that answer it at once, one writes
                    if config.force or find(known(path), config, weights) is None:
                        append(made, path)
                for line in ended(made, outcome, known_in_all_tables(path, made.table), path):
                    log.info("%s", line)
                parts.store.ended_well()
                live.finish(made)
    except UnusableModelError:
        raise  # when its model was loaded, before anything was computed: refused, and no run that failed
    except Exception as error:
        record = _record(config, choices, asked, weights, None, source, note=f"{type(error).__name__}: {error}")
        if processes.is_main:
            try:
                append(record, path)
            except OSError as unwritten:  # most likely for the same reason
                log.error("%s The failed run is not in the record file.", sentence(unwritten))
        raise RunError(record, error) from error
    made = processes.told(made)
    assert made is not None
    return made


def known(path: Path) -> list[RunRecord]:
    """The last record of every question; none where there is no file yet."""
    return latest(read(path)) if path.exists() else []


def known_in_all_tables(path: Path, table: str) -> list[RunRecord]:
    """The last record of every question in `path`, the file of `table`, and in the files of other tables beside it."""
    return [record for file in sorted(path.parent.glob(path.name.replace(table, "*"))) for record in known(file)]


def find(records: Sequence[RunRecord], config: DictConfig, weights: str, *, any_row: bool = False) -> RunRecord | None:
    """The last good record of the same question about the same weights, under this row's name or under any."""
    asked = (config.seed, config_digest(config), weights)
    good = [
        record
        for record in records
        if record.status == "ok"
        and (record.seed, record.config_digest, record.model["weights_digest"]) == asked
        and (any_row or record.experiment == experiment_of(config))
    ]
    return good[-1] if good else None


def check_committed(records: Path, source: Source) -> None:
    """Raise ValueError where a record under results/ could not be traced to a commit."""
    if source.clean or REPOSITORY / "results" not in records.resolve().parents:
        return
    changed = "has uncommitted changes under cq/ or conf/" if source.commit else "is no git repository"
    raise ValueError(
        f"paths.records={records}: what enters results/ is made by committed code, but {REPOSITORY.name}/ {changed}. "
        "Commit first, or record elsewhere: paths=default."
    )


def _resolved(config: DictConfig) -> dict[str, Any]:
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def experiment_of(config: DictConfig) -> str:
    return f"{config.row.table}/{config.row.name}"


def write_strip(samples: "SampleSet", path: Path) -> None:
    """The first images side by side as a PNG."""
    from PIL import Image

    images = samples.images_NCHW[:THUMBNAILS]
    strip = images.permute(1, 2, 0, 3).flatten(2)  # [C, H, N * W]
    array = strip[0].numpy() if strip.shape[0] == 1 else strip.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock"):
        for left_over in path.parent.glob(f"{path.name}.*.tmp"):
            left_over.unlink()  # its writer held this lock and is gone
        write_atomically(path, buffer.getvalue())


def _record(
    config: DictConfig, choices: Mapping[str, str], asked: Mapping[str, Any], weights: str,
    outcome: "RunOutcome | None", source: Source, *, note: str,
) -> RunRecord:  # fmt: skip
    return RunRecord(
        schema=SCHEMA,
        **asked,
        model={"name": choices.get("model", ""), "weights_digest": weights},
        commit=source.commit,
        clean_tree=source.clean,
        date=datetime.now(timezone.utc).strftime(DATE),
        versions={**_versions(), **_owners(config), **_beside(config), **(outcome.rounding if outcome else {})},
        device=f"{platform.machine()} {outcome.device if outcome else 'cpu'}",
        counted=outcome.counted if outcome else {},
        measured=outcome.measured if outcome else None,
        scores=outcome.scores if outcome else {},
        seconds=outcome.seconds if outcome else {},
        made=outcome.made if outcome else {},
        artifacts=outcome.digests if outcome else {},
        images_digest=outcome.images_digest if outcome else "",
        schedule={
            "num_calls": outcome.acceleration.num_calls,
            "refresh_calls": list(outcome.acceleration.schedule.refresh_calls),
        } if outcome else {},
        thumbnails=f"thumbnails/{outcome.images_digest[:16]}.png" if outcome else "",
        store=os.path.relpath(place(config, "store"), place(config, "records").parent),
        folders=outcome.folders if outcome else {},
        executed=outcome.executed if outcome else "",
        status="failed" if outcome is None else "incomplete" if outcome.missing else "ok",
        note=note,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    """Of all that decides a number; our own is a local one where modules are not those of its commit or its wheel."""
    ours = f"{__version__}+local" if identity.changed_modules() else __version__
    return {"cq": ours, "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _owners(config: DictConfig) -> dict[str, str]:
    """The versions of the other packages that components of this configuration are of, where they have one."""
    return {name: found for name in identity.owners(_resolved(config)) if (found := _version(name))}


def _beside(config: DictConfig) -> dict[str, str]:
    """The name of what decides this configuration's numbers beside it; nothing where all is as committed."""
    found = beside(question_of(_resolved(config)))  # W&B's project is a name, and may be that of a folder here
    return {BESIDE: digest_of(found)[:12]} if found else {}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # one that this run did not need
        return ""


def _asked(config: DictConfig, choices: Mapping[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a record that say what was asked, and under which name."""
    resolved = _resolved(config)
    quantize = resolved["quantize"].get("base", resolved["quantize"])  # what is built on another has its bits
    groups = ("model", "sampler", "cache", "predict", "calibrate", "cost", "schedule", "quantize", "engine", "sample")
    names = {group: group for group in groups}
    names |= {f"correct_{slot}": f"correct@correct.{slot}" for slot in ("cache", "quant", "output")}
    return {
        "experiment": experiment_of(config),
        "table": config.row.table,
        "row": config.row.order,
        "label": config.row.label,
        "paper_row": config.row.paper,
        "choices": {name: choices.get(group, "") for name, group in names.items()},
        "budget": {
            "num_steps": resolved["sample"]["num_steps"], "cache_interval": resolved["schedule"].get("interval"),
            "weight_bits": quantize.get("weight_bits"), "act_bits": quantize.get("act_bits"),
        },
        "seed": config.seed,
        "config": resolved,
        "config_digest": config_digest(config),
        "overrides": (*allowed(), *overrides),
    }  # fmt: skip
