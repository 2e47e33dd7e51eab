"""How far each image is from the one the full-precision, uncached model draws from the same seed.

Legend of shape suffixes: N image, C channel, H W space, T call of the denoiser (0 is the noisiest).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cq.core.contracts import Better
from cq.core.values import Batch, Resamples
from cq.evaluate.bootstrap import METHOD, check_resamples, interval_of_mean
from cq.evaluate.features import check_images
from cq.evaluate.protocol import EvaluationContext, Score

SSIM_VALUES = 2**18  # pixels times channels of an image set at once; each image's score is the same in any split
SSIM_BYTES = 16 * 8  # a value of both images, their squares and product, their means over windows, and what is between
WINDOW, SIGMA = 11, 1.5  # pixels of a side, and the width of the Gaussian in it
STABILIZERS = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)


def psnr_db(images_NCHW: Tensor, baseline_NCHW: Tensor, *, cap_db: float, batch_size: int) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 pair in dB, peak 255, float64 [N]; equal images get `cap_db`."""
    pairs = zip(torch.split(images_NCHW, batch_size), torch.split(baseline_NCHW, batch_size), strict=True)
    mean_squared_N = torch.cat(
        [(ours.double() - theirs.double()).flatten(1).square().mean(1) for ours, theirs in pairs]
    )
    return (10 * torch.log10(255.0**2 / mean_squared_N)).clamp(max=cap_db)


def ssim(images_NCHW: Tensor, baseline_NCHW: Tensor, *, batch_size: int) -> Tensor:
    """Structural similarity of each uint8 pair, float64 [N], as its authors crop it (Wang et al. 2004, Eq. 13).

    The mean over channels and over the windows that lie whole within the image; none reaches over its edge. Raises
    ValueError for images smaller than a window.
    """
    check_window(*images_NCHW.shape[2:])
    at_once = max(1, min(batch_size, SSIM_VALUES // images_NCHW[0].numel()))
    pairs = zip(torch.split(images_NCHW, at_once), torch.split(baseline_NCHW, at_once), strict=True)
    return torch.cat([_ssim(ours.double(), theirs.double()) for ours, theirs in pairs])


def check_window(height: int, width: int) -> None:
    """Raise ValueError for images in which no window of SSIM fits."""
    if min(height, width) < WINDOW:
        raise ValueError(
            f"images of {width}x{height}: SSIM compares windows of {WINDOW}x{WINDOW} pixels, and none fits. Leave the "
            "metric out: ~metrics.fidelity"
        )


def _ssim(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    mean_x, mean_y = _over_windows(x_NCHW), _over_windows(y_NCHW)
    xx, yy, xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    variances = (_over_windows(x_NCHW * x_NCHW) - xx) + (_over_windows(y_NCHW * y_NCHW) - yy)
    covariance = _over_windows(x_NCHW * y_NCHW) - xy
    c1, c2 = STABILIZERS
    similarity = (2 * xy + c1) * (2 * covariance + c2) / ((xx + yy + c1) * (variances + c2))
    return similarity.flatten(1).mean(1)


def _over_windows(x_NCHW: Tensor) -> Tensor:
    """Gaussian means of all whole windows; tap by tap, so that no thread or batch changes the order of a sum."""
    taps = [math.exp(-((k - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for k in range(WINDOW)]
    for dim in (2, 3):
        length = x_NCHW.shape[dim] - WINDOW + 1
        mean = torch.zeros_like(x_NCHW.narrow(dim, 0, length))
        for k, tap in enumerate(taps):
            mean.add_(x_NCHW.narrow(dim, k, length), alpha=tap / sum(taps))
        x_NCHW = mean
    return x_NCHW


def relative_error(values_NX: Tensor, baseline_NX: Tensor) -> Tensor:
    """L2 norm of the difference of each pair over that of the baseline, float64 [N].

    Raises ValueError for a baseline row of norm zero, against which nothing is relative.
    """
    difference_NX = (values_NX.double() - baseline_NX.double()).flatten(1)
    norm_N = baseline_NX.double().flatten(1).norm(dim=1)
    if bool((norm_N == 0).any()):
        raise ValueError("baseline: a latent of norm zero has no relative error. Look at the full-precision samples.")
    error_N: Tensor = difference_NX.norm(dim=1) / norm_N
    return error_N


def score_of_mean(
    context: EvaluationContext,
    values_N: Tensor,
    *,
    metric: str,
    better: Literal["up", "down"],
    details: Mapping[str, str | int],
    resamples: int,
    seed: int,
    curve: tuple[float, ...] = (),
) -> Score:
    """The mean of one value a pair, with its interval and the protocol of a paired metric."""
    low, high = interval_of_mean(values_N, resamples=resamples, seed=seed)
    protocol = protocol_of_pairs(context, metric, details, resamples=resamples)
    return Score(value=float(values_N.mean()), low=low, high=high, better=better, protocol=protocol, curve=curve)


def protocol_of_pairs(
    context: EvaluationContext, metric: str, details: Mapping[str, str | int | float], *, resamples: int
) -> dict[str, Any]:
    """What must be equal before two scores of a paired metric are compared. details: what the metric adds."""
    baseline = "full precision, uncached, same seeds" + (f", {context.solver}" if context.solver else "")
    return context.protocol(metric, {**details, "baseline": baseline, "interval": f"{METHOD}, {resamples} resamples"})


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """`psnr_fp_db`, `ssim_fp`, `latent_error_fp`: each image against the baseline's of the same seed.

    Each is a mean over images of one value a pair. psnr_cap_db: what equal images count as, so that means stay
    finite. The curve of `latent_error_fp` is the mean error of the traced images after each call; none where the
    baseline was drawn in other steps or by another solver, whose states lie at other noise levels.
    """

    better: ClassVar[Better] = {"psnr_fp_db": "up", "ssim_fp": "up", "latent_error_fp": "down"}

    batch_size: Batch
    psnr_cap_db: float
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)
        if not self.psnr_cap_db > 0:
            raise ValueError(f"psnr_cap_db={self.psnr_cap_db}: must be positive. 100 is beyond any unequal pair.")

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError for images that SSIM has no value for."""
        check_window(height, width)

    def held_bytes(self, shape: tuple[int, ...]) -> int:
        """Of SSIM, for as many images [C, H, W] as it compares at once."""
        return max(SSIM_VALUES, math.prod(shape)) * SSIM_BYTES

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        samples, baseline = context.pairs()
        check_images(samples.images_NCHW)
        images = samples.images_NCHW, baseline.images_NCHW
        psnr_N = psnr_db(*images, cap_db=self.psnr_cap_db, batch_size=self.batch_size)
        latents_N = relative_error(samples.latents_NCHW, baseline.latents_NCHW)
        traces = zip(samples.trace_TNCHW, baseline.trace_TNCHW, strict=True) if context.same_calls else ()
        curve_T = [float(relative_error(ours, theirs).mean()) for ours, theirs in traces if len(ours)]
        return {
            "psnr_fp_db": score_of_mean(
                context,
                psnr_N,
                metric="psnr_fp_db",
                better="up",
                details={"definition": f"mean of PSNR, uint8, equal images {self.psnr_cap_db:g} dB"},
                resamples=self.resamples,
                seed=self.bootstrap_seed,
            ),
            "ssim_fp": score_of_mean(
                context,
                ssim(*images, batch_size=self.batch_size),
                metric="ssim_fp",
                better="up",
                details={
                    "definition": f"mean of SSIM, uint8, whole windows of {WINDOW} x {WINDOW}, Gaussian of {SIGMA}"
                },
                resamples=self.resamples,
                seed=self.bootstrap_seed,
            ),
            "latent_error_fp": score_of_mean(
                context,
                latents_N,
                metric="latent_error_fp",
                better="down",
                details={
                    "definition": "mean of relative L2 of final latents",
                    "num_traced": samples.trace_TNCHW.shape[1],
                },
                resamples=self.resamples,
                seed=self.bootstrap_seed,
                curve=tuple(curve_T),
            ),
        }
