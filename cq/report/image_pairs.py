"""Two runs image by image: what each image scores against full precision, read from the store.

Legend of shape suffixes: N image, C channel, H W space.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cq.report.pick import Run

if TYPE_CHECKING:  # brings torch
    from torch import Tensor

CHUNK = 256  # images in memory at once
CAP_DB = 100.0  # what equal images count as where the configuration does not say
RESAMPLES = 1000
AGREE = 1e-6  # relative: how near the mean over images must come to what the run recorded
SAMPLES, BASELINE = "samples", "samples_full_precision"


@dataclass(frozen=True, kw_only=True)
class PairedImages:
    """The mean over images of B's score minus A's, with its 95 % interval (bootstrap over images)."""

    mean: float
    low: float
    high: float
    num: int

    @property
    def sign(self) -> int:
        """Of the difference; 0 where the interval holds zero."""
        return int(self.low > 0) - int(self.high < 0)


def paired_images(pairs: Sequence[tuple[Run, Run]], key: str) -> PairedImages | None:
    """Over all images of the pairs of runs, A's and B's of one seed each.

    None where the score is none of one image alone, or where an image set, or the full-precision one, is gone or is not
    what was scored.
    """
    import torch

    from cq.evaluate.bootstrap import interval_of_mean

    differences = []
    for a, b in pairs:
        found = [_scores(run, key) for run in (a, b)]
        if found[0] is None or found[1] is None or len(found[0]) != len(found[1]):
            return None
        differences.append(found[1] - found[0])
    if not differences:
        return None
    all_N = torch.cat(differences)
    low, high = interval_of_mean(all_N, resamples=RESAMPLES, seed=0)
    return PairedImages(mean=float(all_N.mean()), low=low, high=high, num=len(all_N))


def images_folder(run: Run) -> Path | None:
    """Where its images lie; a run that neither caches nor quantizes has those of full precision."""
    return run.folder(SAMPLES if SAMPLES in run.record.folders else BASELINE)


def seeds_in(folder: Path) -> tuple[int, ...]:
    """The seed of every image of a set."""
    from cq.core.artifacts import DOCUMENT

    return tuple(json.loads((folder / DOCUMENT).read_text())["seeds"])


def chunks(folder: Path, name: str) -> "Iterator[Tensor]":
    """A tensor of an image set, some rows at a time."""
    from safetensors import safe_open

    from cq.core.artifacts import TENSORS

    with safe_open(folder / TENSORS, framework="pt") as file:
        rows = file.get_slice(name)
        for first in range(0, rows.get_shape()[0], CHUNK):
            yield rows[first : first + CHUNK]


def _scores(run: Run, key: str) -> "Tensor | None":
    """Float64 [N]; None where they are not to be had, or do not make what was recorded."""
    import torch

    from cq.evaluate.fidelity import psnr_db, relative_error

    def psnr(ours_NCHW: "Tensor", theirs_NCHW: "Tensor") -> "Tensor":
        return psnr_db(ours_NCHW, theirs_NCHW, cap_db=_cap_db(run), batch_size=CHUNK)

    kinds = {"psnr_fp_db": ("images_NCHW", psnr), "latent_error_fp": ("latents_NCHW", relative_error)}
    folder, baseline = images_folder(run), run.folder(BASELINE)
    if key not in kinds or folder is None or baseline is None or seeds_in(folder) != seeds_in(baseline):
        return None
    name, score = kinds[key]
    values_N = torch.cat([score(*pair) for pair in zip(chunks(folder, name), chunks(baseline, name), strict=True)])
    recorded = run.record.scores[key]["value"]
    return values_N if math.isclose(float(values_N.mean()), recorded, rel_tol=AGREE, abs_tol=AGREE) else None


def _cap_db(run: Run) -> float:
    metrics: Mapping[str, Mapping[str, float]] = run.record.config.get("metrics") or {}
    return next((each["psnr_cap_db"] for each in metrics.values() if "psnr_cap_db" in each), CAP_DB)
