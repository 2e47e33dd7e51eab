from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate import precision_recall
from cq.evaluate.bootstrap import interval_around
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.precision_recall import (
    PrecisionRecall,
    drawn_halves,
    neighbours,
    precision_of_samples,
    recall_of_draws,
)
from cq.evaluate.protocol import EvaluationContext, Score
from cq.evaluate.reference import ReferenceStatistics, load_reference
from tests.oracles.precision_recall import share_in_manifold

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]


def rows(count: int, seed: int, *, dim: int = 3, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dim, dtype=torch.float64, generator=generator)


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def precision(samples_NF: Tensor, reference_MF: Tensor, *, k: int) -> float:
    return float(precision_of_samples(samples_NF, reference_MF, k=k).double().mean())


def recall(samples_NF: Tensor, reference_MF: Tensor, *, k: int) -> float:
    all_1N = torch.ones(1, len(samples_NF), dtype=torch.bool)
    return float(recall_of_draws(samples_NF, reference_MF, all_1N, k=k))


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_both_equal_a_double_loop_in_blocks_of_any_size(
    k: int, scale: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_recall, "BLOCK", block)
    samples_NF, reference_MF = rows(60, 1, scale=scale), rows(45, 2)
    ours, theirs = samples_NF.tolist(), reference_MF.tolist()
    found = precision(samples_NF, reference_MF, k=k), recall(samples_NF, reference_MF, k=k)
    assert found == (share_in_manifold(ours, theirs, k=k), share_in_manifold(theirs, ours, k=k))
    assert found != (1.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.integers(-4, 4), min_size=4, max_size=12),
    reference=st.lists(st.integers(-4, 4), min_size=4, max_size=12),
    k=st.integers(1, 3),
)
def test_both_equal_a_double_loop_where_points_coincide_and_lie_on_rims(
    samples: list[int], reference: list[int], k: int
) -> None:
    samples_NF, reference_MF = line(*samples), line(*reference)
    ours, theirs = samples_NF.tolist(), reference_MF.tolist()
    assert precision(samples_NF, reference_MF, k=k) == share_in_manifold(ours, theirs, k=k)
    assert recall(samples_NF, reference_MF, k=k) == share_in_manifold(theirs, ours, k=k)


def test_a_line_by_hand() -> None:
    data = line(0, 1, 2, 5)  # balls [-1, 1], [0, 2], [1, 3] and [2, 8]
    samples = line(2, 3, 33)  # balls [1, 3], [2, 4] and [3, 63]
    assert precision(samples, data, k=1) == 2 / 3  # 33 lies beyond 8
    assert recall(samples, data, k=1) == 3 / 4  # 0 lies before 1, which lies on a rim; 5 in the ball of the outlier


def test_equal_sets_have_precision_and_recall_of_one() -> None:
    x_NF = rows(50, 1)
    assert (precision(x_NF, x_NF, k=3), recall(x_NF, x_NF, k=3)) == (1.0, 1.0)


def test_sets_far_apart_have_none() -> None:
    x_NF = rows(50, 1)
    assert (precision(x_NF + 100, x_NF, k=3), recall(x_NF + 100, x_NF, k=3)) == (0.0, 0.0)


def test_one_is_the_other_with_the_sets_exchanged() -> None:
    x_NF, y_NF = rows(40, 1, scale=0.7), rows(30, 2)
    assert precision(x_NF, y_NF, k=3) == recall(y_NF, x_NF, k=3)


def test_fewer_modes_cost_recall_and_spread_costs_precision() -> None:
    data_MF = rows(200, 1)
    narrow_NF, wide_NF = rows(200, 2, scale=0.3), rows(200, 2, scale=3.0)
    assert precision(narrow_NF, data_MF, k=3) > 0.95 > 0.6 > recall(narrow_NF, data_MF, k=3)
    assert recall(wide_NF, data_MF, k=3) > 0.95 > 0.6 > precision(wide_NF, data_MF, k=3)


def test_order_does_not_matter() -> None:
    x_NF, y_MF = rows(40, 1, scale=0.7), rows(30, 2)
    assert precision(x_NF.flip(0), y_MF.flip(0), k=3) == precision(x_NF, y_MF, k=3)
    assert recall(x_NF.flip(0), y_MF.flip(0), k=3) == recall(x_NF, y_MF, k=3)


def test_neighbours_are_other_rows_and_copies_count() -> None:
    near_NJ, which_NJ = neighbours(line(0, 0, 2), depth=9)
    assert near_NJ.tolist() == [[0, 2], [0, 2], [2, 2]]
    assert which_NJ[:2].tolist() == [[1, 2], [0, 2]]


@pytest.mark.parametrize("num", [41, 300])  # the lists of neighbours hold all others, and only some
def test_recall_of_a_half_is_that_of_its_images_alone(num: int) -> None:
    samples_NF, reference_MF = rows(num, 1, scale=0.7), rows(60, 2)
    drawn_RN = torch.stack(list(drawn_halves(num, resamples=5, seed=0)))
    expected = [recall(samples_NF[drawn_N], reference_MF, k=3) for drawn_N in drawn_RN]
    assert recall_of_draws(samples_NF, reference_MF, drawn_RN, k=3).tolist() == expected
    assert len(set(expected)) > 1


def test_halves_hold_half_of_the_images_and_follow_the_seed() -> None:
    first, again, other = (torch.stack(list(drawn_halves(9, resamples=20, seed=seed))) for seed in (0, 0, 1))
    assert first.sum(1).tolist() == [4] * 20
    assert first.equal(again)
    assert not first.equal(other)


def test_halves_spread_as_recall_does_over_other_samples() -> None:
    """The interval covers the mean recall about as often as it says; its halves are barely biased."""
    generator = torch.Generator().manual_seed(0)
    reference_MF = torch.randn(200, 8, dtype=torch.float64, generator=generator)
    values, spreads, intervals = [], [], []
    for trial in range(60):
        samples_NF = 0.7 * torch.randn(200, 8, dtype=torch.float64, generator=generator)
        halves = drawn_halves(200, resamples=60, seed=trial)
        recall_R = recall_of_draws(
            samples_NF, reference_MF, torch.stack([torch.ones(200, dtype=torch.bool), *halves]), k=3
        )
        values.append(recall_R[0])
        spreads.append(recall_R[1:].std())
        intervals.append(interval_around(float(recall_R[0]), recall_R[1:]))
    truth, spread = torch.stack(values).mean(), torch.stack(values).std()
    assert 0.75 <= float(torch.stack(spreads).mean() / spread) <= 1.25  # the spread of 60 is known to 9 %
    assert sum(low <= truth <= high for low, high in intervals) / 60 >= 0.83  # 0.95, less 4 standard errors of 0.03


@pytest.fixture
def metric(network_folder: Path, reference_folder: Path) -> PrecisionRecall:
    return PrecisionRecall(
        features=str(network_folder),
        reference=str(reference_folder),
        batch_size=100,
        k=3,
        resamples=40,
        bootstrap_seed=0,
    )


@pytest.fixture
def compute(metric: PrecisionRecall, samples: Samples) -> Callable[[Tensor], dict[str, Score]]:
    def run(images_NCHW: Tensor) -> dict[str, Score]:
        drawn = samples(images_NCHW, torch.ones(len(images_NCHW), 1))
        return dict(metric.compute(EvaluationContext(samples=drawn, baseline=None, sampling={"guidance": 3.0})))

    return run


def test_scores_are_the_shares_of_the_extracted_features(
    compute: Callable[[Tensor], dict[str, Score]],
    network: FeatureNetwork,
    reference_folder: Path,
    images: Images,
) -> None:
    found_NF = network.extract(images(120, 0), batch_size=100).pooled_NF
    subset_MF = load_reference(str(reference_folder), network).subset_MF.double()
    scores = compute(images(120, 0))
    ours, theirs = found_NF.tolist(), subset_MF.tolist()
    assert {name: score.value for name, score in scores.items()} == {
        "precision_own": pytest.approx(share_in_manifold(ours, theirs, k=3)),
        "recall_own": pytest.approx(share_in_manifold(theirs, ours, k=3)),
    }
    for score in scores.values():
        assert 0 < score.value < 1
        assert score.low is not None
        assert score.high is not None
        assert 0 <= score.low < score.value < score.high <= 1
        assert score.better == "up"


def test_the_protocol_holds_everything_that_must_be_equal(
    compute: Callable[[Tensor], dict[str, Score]], network: FeatureNetwork, reference_folder: Path, images: Images
) -> None:
    reference = load_reference(str(reference_folder), network)
    for name, score in compute(images(120, 0)).items():
        assert score.protocol["metric"] == name
        assert score.protocol["k"] == 3
        assert (score.protocol["num_images"], score.protocol["num_reference"]) == (120, 200)
        assert (score.protocol["features"], score.protocol["reference"]) == (network.digest, reference.digest)
        assert score.protocol["guidance"] == 3.0
        assert "40 resamples" in score.protocol["interval"]


def test_images_of_the_reference_itself_are_precise(
    metric: PrecisionRecall, samples: Samples, network: FeatureNetwork, images: Images, tmp_path: Path
) -> None:
    """The stored subset is rounded to half precision, which must not push its own images off the manifold."""
    features = network.extract(images(80, 3), batch_size=100)
    ReferenceStatistics.of(features, data_set="x", network=network.digest, subset_size=80, seed=0).save(tmp_path)
    drawn = samples(images(80, 3), torch.ones(80, 1))
    scores = replace(metric, reference=str(tmp_path)).compute(
        EvaluationContext(samples=drawn, baseline=None, sampling={})
    )
    assert (scores["precision_own"].value, scores["recall_own"].value) == (1.0, 1.0)
    assert (scores["precision_own"].low, scores["precision_own"].high) == (1.0, 1.0)


def test_too_few_images_are_refused(compute: Callable[[Tensor], dict[str, Score]], images: Images) -> None:
    with pytest.raises(ValueError, match=r"k=3: needs 8 samples.*there are 7 and 200"):
        compute(images(7, 0))
    compute(images(8, 0))


def test_a_ball_reaches_out_to_one_neighbour_or_more(metric: PrecisionRecall) -> None:
    with pytest.raises(ValueError, match=r"k=0.*at least 1"):
        replace(metric, k=0)
