"""The Frechet distance between two Gaussians, once as everybody computes it and once fast.

Legend of shape suffixes: N image, F feature.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cq.evaluate.bootstrap import Interval, interval_around, resampled_counts
from cq.evaluate.protocol import Score


def moments(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and covariance [F, F] in float64, divided by N - 1 as clean-fid and torchmetrics do.

    Raises ValueError for fewer than two rows.
    """
    if len(features_NF) < 2:
        raise ValueError(f"{len(features_NF)} images have no covariance. Give at least 2.")
    features_NF = features_NF.double()
    num_features = features_NF.shape[1]
    return features_NF.mean(0), torch.cov(features_NF.T).reshape(num_features, num_features)


def check_count(num_images: int, num_features: int) -> None:
    """Raise ValueError where a covariance of `num_features` dimensions cannot have full rank."""
    if num_images <= num_features:
        raise ValueError(
            f"{num_images} images: a Frechet distance in {num_features} dimensions needs more than {num_features}, "
            "and is mostly bias below ten times that. Sample more images, or compare them with the "
            "full-precision ones: evaluate=fidelity."
        )


def frechet_distance(mu_F: Tensor, sigma_FF: Tensor, ref_mu_F: Tensor, ref_sigma_FF: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians (arXiv:1706.08500, Eq. 6), as clean-fid computes it.

    Exact to about 1e-8 of the traces, also for singular covariances; what falls below zero by that much is zero.
    Raises ValueError where the symmetric form of `FrechetToReference` does not confirm it.
    """
    from cleanfid.fid import frechet_distance as of_clean_fid
    from scipy.linalg import LinAlgWarning

    with warnings.catch_warnings():
        # clean-fid 0.1.35 passes `disp` to scipy's sqrtm, which warns of its end in 1.18 (pinned below that)
        warnings.simplefilter("ignore", DeprecationWarning)
        # a dead feature makes the product singular; whether that did harm is checked below
        warnings.simplefilter("ignore", LinAlgWarning)
        value = float(of_clean_fid(mu_F.numpy(), sigma_FF.numpy(), ref_mu_F.numpy(), ref_sigma_FF.numpy()))
    confirmed = float(FrechetToReference(ref_mu_F, ref_sigma_FF).distance(mu_F, sigma_FF))
    scale = float(sigma_FF.trace() + ref_sigma_FF.trace())
    if abs(value - confirmed) > 1e-5 * (scale + abs(confirmed)):
        raise ValueError(
            f"Frechet distance: clean-fid finds {value:.6g}, the symmetric form {confirmed:.6g}; the covariances are "
            "too badly conditioned for either. Sample more images."
        )
    return max(value, 0.0)


class FrechetToReference:
    """The same distance to one fixed Gaussian, fast enough to resample.

    tr sqrt(A B) is the sum of the square roots of the eigenvalues of sqrt(B) A sqrt(B), which is symmetric; sqrt(B)
    is computed once. Eigenvalues that rounding made negative are zero.
    """

    def __init__(self, mu_F: Tensor, sigma_FF: Tensor) -> None:
        values_F, vectors_FF = torch.linalg.eigh(sigma_FF.double())
        self.mu_F = mu_F.double()
        self.trace = sigma_FF.double().trace()
        self.root_FF = (vectors_FF * values_F.clamp(min=0).sqrt()) @ vectors_FF.T

    def distance(self, mu_F: Tensor, sigma_FF: Tensor) -> Tensor:
        """Float64 scalar."""
        spectrum_F = torch.linalg.eigvalsh(self.root_FF @ sigma_FF @ self.root_FF).clamp(min=0)
        shift = (mu_F - self.mu_F).square().sum()
        distance: Tensor = shift + sigma_FF.trace() + self.trace - 2 * spectrum_F.sqrt().sum()
        return distance

    def interval(self, value: float, features_NF: Tensor, *, resamples: int, seed: int) -> Interval:
        """Interval of the distance over images, reference fixed; no lower than zero."""
        centre_F = features_NF.mean(0)
        centred_NF = features_NF - centre_F  # sums of squares of small numbers lose fewer digits
        num = len(features_NF)
        distances = []
        for counts_N in resampled_counts(num, resamples=resamples, seed=seed):
            shift_F = counts_N @ centred_NF / num
            second_FF = centred_NF.T @ (counts_N[:, None] * centred_NF)
            sigma_FF = (second_FF - num * torch.outer(shift_F, shift_F)) / (num - 1)
            distances.append(self.distance(centre_F + shift_F, sigma_FF))
        low, high = interval_around(value, torch.stack(distances))
        return Interval(max(low, 0.0), max(high, 0.0))


def score_frechet(
    features_NF: Tensor,
    ref_mu_F: Tensor,
    ref_sigma_FF: Tensor,
    *,
    protocol: Mapping[str, Any],
    resamples: int,
    seed: int,
) -> Score:
    """Distance of the features to a reference Gaussian, with its interval."""
    check_count(*features_NF.shape)
    mu_F, sigma_FF = moments(features_NF)
    value = frechet_distance(mu_F, sigma_FF, ref_mu_F, ref_sigma_FF)
    to_reference = FrechetToReference(ref_mu_F, ref_sigma_FF)
    low, high = to_reference.interval(value, features_NF, resamples=resamples, seed=seed)
    return Score(value=value, low=low, high=high, better="down", protocol=protocol)
