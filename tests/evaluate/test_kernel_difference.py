"""The paired difference of kernel distances against double loops, and what its interval is worth."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate.bootstrap import interval_around, resampled_counts
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.kernel import Kernel, kernel_distance
from cq.evaluate.kernel_difference import KernelDifference
from cq.evaluate.protocol import EvaluationContext, NoBaselineError, Score
from cq.evaluate.reference import load_reference
from tests.evaluate.test_kernel import by_double_loop

Samples = Callable[[Tensor, Tensor], SampleSet]


@pytest.fixture(name="metric")
def _metric(network_folder: Path, reference_folder: Path) -> KernelDifference:
    return KernelDifference(
        features=str(network_folder), reference=str(reference_folder), batch_size=50, resamples=40, bootstrap_seed=0
    )


@pytest.fixture(name="context")
def _context(images: Callable[[int, int], Tensor], samples: Samples) -> EvaluationContext:
    """Twenty smooth images, and the same under a little noise."""
    theirs, latents = images(20, 0), torch.ones(20, 1)
    noise = torch.randint(-20, 21, theirs.shape, generator=torch.Generator().manual_seed(0))
    ours = (theirs.int() + noise).clamp(0, 255).byte()
    return EvaluationContext(samples=samples(ours, latents), baseline=samples(theirs, latents), sampling={})


def only(found: object) -> Score:
    assert isinstance(found, dict)
    (score,) = found.values()
    assert isinstance(score, Score)
    return score


def test_value_and_interval_are_those_of_images_copied_as_often_as_drawn(
    metric: KernelDifference, context: EvaluationContext, network: FeatureNetwork, reference_folder: Path
) -> None:
    samples, baseline = context.pairs()
    ours_NF, theirs_NF = (network.extract(one.images_NCHW, batch_size=50).pooled_NF for one in (samples, baseline))
    real_MF = load_reference(str(reference_folder), network).subset_MF[:30].double()
    reference_part = load_reference(str(reference_folder), network).subset_MF.double()
    score = only(metric.compute(context))
    whole = [float(kernel_distance(torch.ones(1, 20).double(), x_NF, reference_part)) for x_NF in (ours_NF, theirs_NF)]
    assert score.value == pytest.approx(whole[0] - whole[1], rel=1e-9)
    loops = by_double_loop(ours_NF, real_MF) - by_double_loop(theirs_NF, real_MF)
    fast = [float(kernel_distance(torch.ones(1, 20).double(), x_NF, real_MF)) for x_NF in (ours_NF, theirs_NF)]
    assert fast[0] - fast[1] == pytest.approx(loops, rel=1e-9)
    drawn = [
        float(kernel_distance(counts_N[None], ours_NF, reference_part))
        - float(kernel_distance(counts_N[None], theirs_NF, reference_part))
        for counts_N in resampled_counts(20, resamples=40, seed=0)
    ]
    assert (score.low, score.high) == pytest.approx(interval_around(score.value, torch.tensor(drawn)), rel=1e-6)


def test_pairs_tell_more_than_two_distances(metric: KernelDifference, context: EvaluationContext) -> None:
    score = only(metric.compute(context))
    alone = only(Kernel(**vars(metric)).compute(context))
    assert None not in (score.low, score.high, alone.low, alone.high)
    assert score.high - score.low < 0.5 * (alone.high - alone.low)  # type: ignore[operator]


def test_equal_images_differ_by_nothing_and_the_protocol_names_the_baseline(
    metric: KernelDifference, context: EvaluationContext
) -> None:
    same = EvaluationContext(samples=context.samples, baseline=context.samples, sampling={}, solver="PLMS")
    score = only(metric.compute(same))
    assert (score.value, score.low, score.high) == (0, 0, 0)
    assert score.protocol["baseline"] == "full precision, uncached, same seeds, PLMS"
    assert score.protocol["definition"].startswith("difference of two: unbiased squared MMD")
    with pytest.raises(NoBaselineError):
        metric.compute(EvaluationContext(samples=context.samples, baseline=None, sampling={}))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Pairs of one distribution, half of each row shared: the truth is 0."""
    generator = torch.Generator().manual_seed(3)
    real_MF = torch.randn(60, 4, dtype=torch.float64, generator=generator)
    held = 0
    for seed in range(200):
        shared_NF, a_NF, b_NF = torch.randn(3, 40, 4, dtype=torch.float64, generator=generator) / 2**0.5
        counts = resampled_counts(40, resamples=80, seed=seed)
        counts_RN = torch.stack([torch.ones(40, dtype=torch.float64), *counts])
        one_R, two_R = (kernel_distance(counts_RN, shared_NF + own_NF, real_MF) for own_NF in (a_NF, b_NF))
        low, high = interval_around(float(one_R[0] - two_R[0]), (one_R - two_R)[1:])
        held += low <= 0 <= high
    assert 175 <= held <= 199
