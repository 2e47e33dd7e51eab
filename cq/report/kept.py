"""What is left of a run in its store, for a page: its Acceleration, its first images, and a diagnosis of its layers."""

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from cq.report.cells import mean_of, si
from cq.report.pick import Run
from cq.run.record import RunRecord
from cq.run.tables import table_names

if TYPE_CHECKING:  # these bring torch
    from torch import Tensor

    from cq.core.acceleration import Acceleration
    from cq.core.artifacts import SampleSet, TrajectoryStatistics
    from cq.evaluate.diagnosis import Diagnosis

log = logging.getLogger(__name__)

IMAGES, WORST = 8, 4  # shown: the first, and those furthest off; of a set that may be larger than memory
TRACES, LATENTS = 32, 4096  # images whose error is told call by call, and at the end


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The artefacts of a run as far as they are there; gone: why the others are not, by name.

    samples, baseline: their beginnings, see `first_images`. worst: images of both at the `places` furthest off.
    """

    acceleration: "Acceleration | None" = None
    statistics: "TrajectoryStatistics | None" = None
    samples: "SampleSet | None" = None
    baseline: "SampleSet | None" = None
    diagnosis: "Diagnosis | None" = None
    places: tuple[int, ...] = ()
    worst: "tuple[Tensor, Tensor] | None" = None
    gone: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors_N(self) -> "Tensor | None":
        """Relative error of the final latents of each image; None where there are no pairs."""
        from cq.evaluate.fidelity import relative_error

        if self.samples is None or self.baseline is None or self.samples.seeds != self.baseline.seeds:
            return None
        return relative_error(self.samples.latents_NCHW, self.baseline.latents_NCHW)

    @property
    def errors_TN(self) -> "Tensor | None":
        """Relative error of the traced images after each call; None where both were not drawn in the same calls."""
        import torch

        from cq.evaluate.fidelity import relative_error

        if self.errors_N is None or self.samples is None or self.baseline is None:
            return None
        ours, theirs = self.samples.trace_TNCHW, self.baseline.trace_TNCHW
        if ours.shape != theirs.shape or ours.shape[1] == 0:
            return None
        return torch.stack([relative_error(a, b) for a, b in zip(ours, theirs, strict=True)])


def kept(run: Run, *, layers: bool) -> Kept:
    """Read what is there. layers: also diagnose the layers, which is computed where the store does not have it yet."""
    from cq.core.acceleration import Acceleration
    from cq.core.artifacts import TrajectoryStatistics

    gone: dict[str, str] = {}
    found: dict[str, Any] = {}
    readers: dict[str, tuple[str, Any]] = {
        "acceleration": ("acceleration", Acceleration.load),
        "baseline": ("samples_full_precision", first_images),
        "samples": ("samples" if "samples" in run.record.folders else "samples_full_precision", first_images),
    }
    for name, (stage, read) in readers.items():
        with _said(gone, name):
            found[name] = read(_folder(run, stage))
    with _said(gone, "statistics"):
        found["statistics"] = TrajectoryStatistics.load(_statistics(run))
    if not layers:
        gone["diagnosis"] = "It was not asked for (--no-layers)."
    elif "acceleration" in found:
        with _said(gone, "diagnosis"):
            found["diagnosis"] = _diagnosis(run, found["acceleration"])
    else:
        gone["diagnosis"] = f"It needs the Acceleration. {gone['acceleration']}"
    made = Kept(**found, gone=gone)
    errors_N = made.errors_N
    if errors_N is None or "samples" not in run.record.folders:
        return made
    places = tuple(errors_N.argsort(descending=True)[:WORST].tolist())
    worst = [_images(_folder(run, stage), places) for stage in ("samples", "samples_full_precision")]
    return replace(made, places=places, worst=(worst[0], worst[1]))


def command(record: RunRecord) -> str:
    """The command line that asks the same question again; from row and choices where the record does not tell it."""
    words = list(record.overrides)
    row = [f"experiment={record.experiment}"] * (record.table in table_names())
    if words and not any(word.startswith("experiment=") for word in words):  # of `cq-table`, whose rows go without it
        words = [*row, *words]
    if not words:
        choices = {key: value for key, value in record.choices.items() if value}
        if row:
            words, choices = row, {"model": record.model["name"]}
        words += [f"{key.replace('correct_', 'correct@correct.')}={value}" for key, value in choices.items()]
        words += [f"budget.{key}={value}" for key, value in record.budget.items() if value is not None]
        words += [f"seed={record.seed}"]
    return shlex.join(["cq", *words])


def first_images(folder: Path) -> "SampleSet":
    """The beginning of a sample set. Bytes that are not read are not checked, unlike by `SampleSet.load`."""
    from safetensors import safe_open

    from cq.core.artifacts import DOCUMENT, TENSORS, SampleSet

    seeds = tuple(json.loads((folder / DOCUMENT).read_text())["seeds"])
    with safe_open(folder / TENSORS, framework="pt") as file:
        some = {name: file.get_slice(name)[:LATENTS] for name in ("latents_NCHW", "labels_N")}
        return SampleSet(
            seeds=seeds[:LATENTS], images_NCHW=file.get_slice("images_NCHW")[:IMAGES],
            trace_TNCHW=file.get_slice("trace_TNCHW")[:, :TRACES], **some,
        )  # fmt: skip


def _images(folder: Path, places: Sequence[int]) -> "Tensor":
    import torch
    from safetensors import safe_open

    from cq.core.artifacts import TENSORS

    with safe_open(folder / TENSORS, framework="pt") as file:
        images = file.get_slice("images_NCHW")
        return torch.cat([images[place : place + 1] for place in places])


def _folder(run: Run, stage: str) -> Path:
    record = run.record
    again = "The command above makes it again, with force=true."
    if not record.folders:
        raise ValueError(f"The record is of before records named their folders. {again}")
    if stage not in record.folders:
        raise ValueError("The run made none.")
    folder = run.folder(stage)
    if folder is None:
        raise ValueError(f"{record.folders[stage]} is no longer in its store, {record.store}. {again}")
    return folder


def _statistics(run: Run) -> Path:
    """Those that the correction of the map was read off: a run that found the correction made did not ask for them."""
    if (asked := run.folder("statistics")) is not None:
        return asked
    of = json.loads((_folder(run, "cache_correction") / "key.json").read_text())
    for key in sorted((run.file.parent / run.record.store / "statistics").glob("*/key.json")):
        described = {name: value for name, value in json.loads(key.read_text()).items() if name != "strategy"}
        if described.items() <= of.items() and (key.parent / "artifact.json").is_file():
            return key.parent
    raise ValueError("The statistics of its calibration are not in the store.")


def _diagnosis(run: Run, acceleration: "Acceleration") -> "Diagnosis":
    """Through the store, as every stage; the run is built anew from the configuration in its record."""
    from cq.run.components import Components
    from cq.run.compose import composed, composing
    from cq.run.context import Run as Rebuilt
    from cq.run.stages.diagnosis import IMAGES as IMAGES_RUN
    from cq.run.stages.diagnosis import Diagnosed

    store = run.file.parent / run.record.store
    with composing():
        today, _ = composed([])
    own: dict[str, Any] = dict(run.record.config)
    later = {str(key): value for key, value in today.items() if key not in own}  # is as it is by default
    config = OmegaConf.create(later | own)
    config.budget = OmegaConf.merge(today.budget, config.budget)
    unread = {  # what judges images, which the layers do not depend on
        "metrics": {}, "objective": [], "protocol": {"_target_": "cq.evaluate.paper_protocol.NoProtocol"},
        "logger": {"_target_": "cq.run.tracking.NoLogger"},
    }  # fmt: skip
    for key, node in unread.items():
        config[key] = node
    config.paths.update(store=str(store), records=str(run.file), tracking=str(store / Diagnosed.name))
    parts = Components.of(config)
    if parts.model.weights_digest() != run.record.model["weights_digest"]:
        raise ValueError(
            f"model.weights={parts.model.weights}: are others than those that the run had. Put those back."
        )
    stage = Diagnosed(Rebuilt(parts))
    if not stage.folder(acceleration).exists():
        macs = run.record.counted["macs_mean"] * acceleration.num_calls * IMAGES_RUN
        log.info(
            "layers: %d trajectories in full precision, about %s MACs, twice that where guided; once, then they are in "
            "the store (--no-layers leaves them out)", IMAGES_RUN, si(mean_of([macs])),
        )  # fmt: skip
    return stage.get(acceleration)


@contextmanager
def _said(gone: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:  # a page says what is missing, and shows the rest
        gone[name] = str(error)
