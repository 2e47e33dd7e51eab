"""FID in the standard Inception features: what published numbers are, where the weights can be had.

Nothing here downloads: a missing file is an error that says what to fetch and where to put it.
Legend of shape suffixes: N image, C channel, H W space, F feature (2048).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from cq.core.contracts import Drawn
from cq.core.values import Batch, Resamples
from cq.evaluate.bootstrap import METHOD, check_resamples
from cq.evaluate.features import check_device, check_images, check_shape, sha256_of_file
from cq.evaluate.gaussian import FrechetToReference, check_count, frechet_distance, moments
from cq.evaluate.npz import read_array, read_heads
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, Score
from cq.evaluate.tf_inception import NAMES, URL, TFInception, find_weights

Mode = Literal["clean", "legacy_tensorflow", "legacy_pytorch", "torchmetrics"]

DIMS = 2048  # of its features
CLEAN_NAME = "inception-2015-12-05.pt"  # clean-fid looks for this name
CLEAN_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{CLEAN_NAME}"
TORCHMETRICS_NAME = NAMES[0]
URLS: dict[Mode, str] = {
    "clean": CLEAN_URL, "legacy_tensorflow": CLEAN_URL, "legacy_pytorch": URL, "torchmetrics": URL,
}  # fmt: skip
DIMS = 2048
OF_TF_INCEPTION = ("legacy_pytorch", "torchmetrics")


def check_weights(mode: Mode, weights: Path) -> Path:
    """The weights. Raises MetricUnavailable where they are missing, ValueError for a file that cannot be the right one.

    The weights of the modes that clean-fid scripts are run as a program: take them from where the message says.
    """
    if mode in OF_TF_INCEPTION:
        return find_weights(str(weights), metric=f"fid_{mode}")
    if not weights.is_file():
        raise MetricUnavailable(f"fid_{mode}: needs the Inception weights. Download {URLS[mode]} to {weights}.")
    if weights.name != CLEAN_NAME:
        raise ValueError(
            f"weights={str(weights)!r}: the file for mode={mode!r} must be called {CLEAN_NAME}. Rename it."
        )
    return weights


def inception_features(
    images_NCHW: Tensor, *, mode: Mode, weights: Path, batch_size: int, device: str
) -> Tensor:  # fmt: skip
    """Pooled Inception features, float64 [N, F], of uint8 images; grey images are repeated to three channels.

    clean: bicubic resize to 299 with antialiasing and no rounding (arXiv:2104.11222), one image at a time.
    legacy_tensorflow: the resize of the TensorFlow graph, inside clean-fid's network. legacy_pytorch: pytorch-fid's.
    torchmetrics: torch's bilinear resize with antialiasing, inside the network.
    """
    check_images(images_NCHW)
    weights = check_weights(mode, weights)
    channels = images_NCHW.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels: Inception takes grey (1) or colour (3) images.")
    if mode == "legacy_pytorch":
        inception = TFInception(weights, device=device, resize="pytorch")
        return inception.extract(images_NCHW, batch_size=batch_size).pooled_NF.double()
    network = _torchmetrics(weights, device) if mode == "torchmetrics" else _clean(weights, device, mode)
    parts = []
    with torch.no_grad():
        for batch_NCHW in torch.split(images_NCHW, batch_size):
            parts.append(network(batch_NCHW.expand(-1, 3, -1, -1)).double().cpu())
    return torch.cat(parts)


def _clean(weights: Path, device: str, mode: Mode) -> Callable[[Tensor], Tensor]:
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    inside = mode == "legacy_tensorflow"
    network = InceptionV3W(str(weights.parent), download=False, resize_inside=inside).to(device).eval()
    resize = build_resizer(mode)

    def extract(batch_NCHW: Tensor) -> Tensor:
        resized = np.stack([resize(image_HWC) for image_HWC in batch_NCHW.permute(0, 2, 3, 1).numpy()])
        features: Tensor = network(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device))
        return features

    return extract


def _torchmetrics(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3(
        name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(weights)
    ).to(device)

    def extract(batch_NCHW: Tensor) -> Tensor:
        features: Tensor = network(batch_NCHW.contiguous().to(device))
        return features

    return extract


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
        weights=sha256_of_file(weights),
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
        digest = sha256_of_file(weights)
        self._check_mode(stored)
        if "weights" in stored and str(stored["weights"]) != digest:
            raise ValueError(
                f"reference={self.reference!r}: built with weights {str(stored['weights'])[:12]}, but {digest[:12]} "
                f"is in use. Rebuild it with: {self._command}"
            )
        return weights, digest, stored

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
                "reference": sha256_of_file(path),
                "interval": f"{METHOD}, {self.resamples} resamples" if self.resamples else "none",
            },
        )
        return {name: Score(value=value, low=low, high=high, better="down", protocol=protocol)}
