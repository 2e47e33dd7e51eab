"""FID in the standard Inception features: what published numbers are, where the weights can be had.

Legend of shape suffixes: N image, F feature (2048).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cq.core.checksum import file_digest
from cq.core.contracts import Better, Drawn
from cq.core.values import Batch, Resamples
from cq.evaluate.bootstrap import METHOD, check_resamples
from cq.evaluate.features import check_device, check_shape
from cq.evaluate.gaussian import FrechetToReference, check_count, frechet_distance, moments
from cq.evaluate.inception_features import DIMS, Mode, check_weights, inception_features
from cq.evaluate.npz import read_array, read_heads
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score


def torchmetrics_distance(features_NF: Tensor, ref_mu_F: Tensor, ref_sigma_FF: Tensor, *, ref_count: int) -> float:
    """torchmetrics' distance of features to stored moments: its sums over the real images are put back."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = len(ref_mu_F)  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=identity)
    metric.real_features_num_samples = torch.tensor(ref_count)
    metric.real_features_sum = ref_mu_F * ref_count
    metric.real_features_cov_sum = ref_sigma_FF * (ref_count - 1) + ref_count * torch.outer(ref_mu_F, ref_mu_F)
    metric.update(features_NF, real=False)
    return float(metric.compute())


def _mode_of(stored: Mapping[str, Any], path: Path) -> str | None:
    """In which mode statistics were made: two modes may share their weights. None where they do not say.

    Ours say it, but those from before there were more than two modes; clean-fid's say it by their name.
    """
    if "mode" in stored:
        return str(stored["mode"])
    if "weights" in stored:
        return "torchmetrics" if "torchmetrics" in path.stem else "clean"
    return next((mode for mode in get_args(Mode) if f"_{mode}_" in path.name), None)


def write_inception_reference(path: Path, features_NF: Tensor, *, mode: Mode, weights: Path) -> None:
    """Store mean, covariance, count, mode and the hash of the weights (`mu` and `sigma` as in clean-fid's files)."""
    mu_F, sigma_FF = moments(features_NF)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        mu=mu_F.numpy(),
        sigma=sigma_FF.numpy(),
        count=len(features_NF),
        mode=mode,
        weights=file_digest(weights),
    )


@dataclass(frozen=True, kw_only=True)
class InceptionFrechet:
    """`fid_MODE`: FID as published, in a mode of clean-fid or as torchmetrics, where weights and reference are there.

    weights: the file of the mode (see the message when it is missing). reference: npz of the data set, from `python -m
    experiments.zoo.train reference_clean` or `reference_torchmetrics`, or one of clean-fid's own statistics under its
    own name, which holds the mode. resamples: 0 for no interval; each one takes the spectrum of a 2048 x 2048 matrix,
    seconds on a CPU.
    """

    mode: Mode
    weights: str
    reference: str
    batch_size: Batch
    device: str
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode={self.mode!r}: choose from {', '.join(get_args(Mode))}.")
        if self.resamples:
            check_resamples(self.resamples)

    def check_count(self, num_images: int) -> None:
        """Raise ValueError where the covariance of so few images cannot be whole."""
        check_count(num_images, DIMS)

    def check_files(self) -> None:
        """Raise ValueError for statistics that are there and are none of Inception's features."""
        if Path(self.reference).is_file():
            try:
                heads = read_heads(Path(self.reference))
            except ValueError as error:
                raise ValueError(f"reference={error}") from error
            found = [list(heads[key].shape) if key in heads else None for key in ("mu", "sigma")]
            if found != [[DIMS], [DIMS, DIMS]]:
                raise ValueError(
                    f"reference={self.reference!r}: mu and sigma are {found[0]} and {found[1]}, and the features are "
                    f"{DIMS}. Build it with: {self._command}"
                )
            self._check_mode(self._read({"mode", "weights", "count"} & heads.keys()))

    @property
    def _command(self) -> str:
        return f"python -m experiments.zoo.train reference_{self.mode}"

    def _read(self, keys: Iterable[str]) -> dict[str, Any]:
        return {key: read_array(Path(self.reference), key) for key in keys}

    def _check_mode(self, stored: Mapping[str, Any]) -> None:
        if _mode_of(stored, Path(self.reference)) != self.mode:
            raise ValueError(
                f"reference={self.reference!r}: is not known to be made in mode {self.mode}. Build it with: "
                f"{self._command}, or name clean-fid's statistics as clean-fid does, DATA_{self.mode}_SPLIT_SIZE.npz."
            )
        if self.mode == "torchmetrics" and "count" not in stored:
            raise ValueError(
                f"reference={self.reference!r}: does not say of how many images it is (count). Build it with: "
                f"{self._command}"
            )

    def check(self, drawn: Drawn) -> None:
        """Raise ValueError for images that have no FID, MetricUnavailable where a file is missing."""
        check_shape(drawn.shape, "Inception")
        check_count(drawn.num_images, DIMS)
        check_device(self.device)
        self._files()

    def _files(self) -> tuple[Path, str, Any]:
        """The weights, their SHA-256 and the stored statistics, which are of the mode and of these weights."""
        name, path = f"fid_{self.mode}", Path(self.reference)
        weights = check_weights(self.mode, Path(self.weights))
        if not path.is_file():
            raise MetricUnavailable(
                f"{name}: needs the statistics of the data set, {path}. Build them with: {self._command}"
            )
        stored = self._read(read_heads(path))
        digest = file_digest(weights)
        self._check_mode(stored)
        if "weights" in stored and str(stored["weights"]) != digest:
            raise ValueError(
                f"reference={self.reference!r}: built with weights {str(stored['weights'])[:12]}, but {digest[:12]} "
                f"is in use. Rebuild it with: {self._command}"
            )
        return weights, digest, stored

    @property
    def better(self) -> Better:
        return {f"fid_{self.mode}": "down"}

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        name, path = f"fid_{self.mode}", Path(self.reference)
        weights, digest, stored = self._files()
        ref_mu_F, ref_sigma_FF = (torch.from_numpy(stored[key]).double() for key in ("mu", "sigma"))
        check_count(len(context.samples.images_NCHW), len(ref_mu_F))
        features_NF = inception_features(
            context.samples.images_NCHW,
            mode=self.mode,
            weights=weights,
            batch_size=self.batch_size,
            device=self.device,
        )
        if self.mode != "torchmetrics":
            value = frechet_distance(*moments(features_NF), ref_mu_F, ref_sigma_FF)
        else:
            value = torchmetrics_distance(features_NF, ref_mu_F, ref_sigma_FF, ref_count=int(stored["count"]))
        low = high = None
        if self.resamples:
            to_reference = FrechetToReference(ref_mu_F, ref_sigma_FF)
            low, high = to_reference.interval(value, features_NF, resamples=self.resamples, seed=self.bootstrap_seed)
        protocol = context.protocol(
            name,
            {
                "definition": f"FID, Inception 2048, mode {self.mode}",
                "features": digest,
                "reference": file_digest(path),
                "interval": f"{METHOD}, {self.resamples} resamples" if self.resamples else "none",
            },
        )
        return {name: Score(value=value, low=low, high=high, better="down", protocol=protocol)}
