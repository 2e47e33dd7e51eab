"""What a mean of errors hides: the median image's, and how many images have become other ones.

Legend of shape suffixes: N image, R resample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from cq.core.contracts import Better
from cq.core.values import Resamples, Within
from cq.evaluate.bootstrap import check_resamples, interval_around, resampled_counts
from cq.evaluate.fidelity import protocol_of_pairs, relative_error
from cq.evaluate.protocol import EvaluationContext, Score


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """`latent_error_median_fp`, of what `latent_error_fp` is the mean; `outliers_fp`, how many images exceed `limit`.

    A few images that flip carry the mean error of a run; the median says what became of the others.
    """

    better: ClassVar[Better] = {"latent_error_median_fp": "down", "outliers_fp": "down"}

    limit: Annotated[float, Within(0, 100, "0.3")]
    resamples: Resamples
    bootstrap_seed: int

    def __post_init__(self) -> None:
        check_resamples(self.resamples)

    def compute(self, context: EvaluationContext) -> Mapping[str, Score]:
        samples, baseline = context.pairs()
        error_N = relative_error(samples.latents_NCHW, baseline.latents_NCHW)
        named: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
            "latent_error_median_fp": (lambda e_N: e_N.quantile(0.5), "median of relative L2 of final latents"),
            "outliers_fp": (
                lambda e_N: (e_N > self.limit).double().sum(),
                f"images with a relative L2 of final latents above {self.limit:g}",
            ),
        }
        return {key: self._score(context, key, error_N, *what) for key, what in named.items()}

    def _score(
        self, context: EvaluationContext, key: str, error_N: Tensor, of: Callable[[Tensor], Tensor], definition: str
    ) -> Score:
        counts = resampled_counts(len(error_N), resamples=self.resamples, seed=self.bootstrap_seed)
        value, found_R = float(of(error_N)), torch.stack([of(error_N.repeat_interleave(n.long())) for n in counts])
        low, high = interval_around(value, found_R)
        protocol = protocol_of_pairs(context, key, {"definition": definition}, resamples=self.resamples)
        return Score(value=value, low=max(low, 0.0), high=high, better=self.better[key], protocol=protocol)
