"""What our own choices promise beyond the laws of their kinds: least squares, exact budgets, ideal values."""

from functools import partial
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cq.cache.delta_dit import DeltaDiT
from cq.core.contracts import Corrector
from cq.laws import correctors, metrics, planners
from cq.laws.caching import Pair
from cq.laws.choices import built, names
from cq.laws.forecasts import check_weights
from cq.laws.law import Untried, World
from cq.predict.taylor import Taylor
from tests.families import WRITERS, component

CORRECTORS = [name for name in names("correct") if isinstance(built("correct", name), Corrector)]
# release: its slope is (n - 1) / n of the least-squares one, and it fits the bias, too; ptqd: one slope a call
NOT_LEAST_SQUARES = ("release", "ptqd")
ONE_MORE = ("uniform_from_end",)  # its grid is anchored at the last call, and call 0 need not be on it
# what a set gets that equals the one it is compared with; a metric without an ideal says so with None
IDEAL: dict[str, float | None] = {
    "psnr_fp_db": 100.0, "ssim_fp": 1.0, "latent_error_fp": 0.0, "latent_error_median_fp": 0.0, "outliers_fp": 0.0,
    "feature_distance_own_fp": 0.0, "frechet_own": 0.0, "kid_difference_own_fp": 0.0,
    "sfid_own": 0.0, "precision_own": 1.0, "recall_own": 1.0,
    "kid_own": None,  # unbiased, so below 0 where the two sets are one and the same
    "inception_score_own": None,  # compares with nothing
    "clip_score_own": None,  # compares with the captions, which say nothing of these images
}  # fmt: skip
LIKE_NOISE = ("inception_score_own", "clip_score_own")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("promises"), {})


@pytest.mark.parametrize("name", [name for name in CORRECTORS if name not in NOT_LEAST_SQUARES])
def test_least_squares_is_never_worse_than_the_identity_in_any_channel(name: str, world: World) -> None:
    corrector = built("correct", name)
    for seed in range(5):
        before_TC, after_TC = correctors.residuals(corrector, seed=seed)
        assert (after_TC <= before_TC * (1 + 1e-9) + 1e-9).all()  # sums of squares that cancel
        if corrector.corrects:
            assert (after_TC[correctors.REUSED] < before_TC[correctors.REUSED]).all()  # a drift leaves much to gain


@pytest.mark.parametrize("name", CORRECTORS)
def test_constant_channels_end_at_their_value(name: str, world: World) -> None:
    correctors.constant_channels_end_at_their_value(partial(built, "correct", name), world)


def test_something_is_held_to_least_squares() -> None:
    fits = [name for name in CORRECTORS if built("correct", name).corrects]
    assert len(set(fits) - set(NOT_LEAST_SQUARES)) >= 2


@pytest.mark.parametrize("name", names("schedule"))
def test_no_more_refreshes_than_a_uniform_grid_of_the_interval(name: str, world: World) -> None:
    found = planners.feasible(partial(built, "schedule", name), world)
    for planner, num_calls, interval in found if hasattr(found[0][0], "interval") else ():
        schedule = planner.plan(planners.request(planner, num_calls))
        assert len(schedule.refresh_calls) <= ceil(num_calls / interval) + (name in ONE_MORE)


@st.composite
def pasts(draw: st.DrawFn) -> tuple[int, tuple[int, ...]]:
    """A call, and up to six refreshes before it, newest first."""
    gaps = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    call = sum(gaps) + draw(st.integers(0, 100))
    return call, tuple(sum(gaps[i + 1 :]) for i in range(len(gaps)))


@pytest.mark.parametrize("name", names("predict"))
@settings(max_examples=50, deadline=None)
@given(past=pasts(), shift=st.integers(1, 50))
def test_weights_sum_to_one_whatever_the_past(name: str, past: tuple[int, tuple[int, ...]], shift: int) -> None:
    check_weights(built("predict", name), *past, shift)


@pytest.mark.parametrize("name", names("metric"))
def test_equal_sets_get_the_ideal_value_and_a_spoilt_one_a_worse(name: str, world: World) -> None:
    make, theirs = partial(built, "metric", name), metrics.judge(world.folder).samples
    try:
        found = metrics.scores(make, world, theirs, theirs)
    except Untried as reason:  # which metrics may be, test_laws.py says
        pytest.skip(str(reason))
    worse = metrics.scores(make, world, metrics.spoilt(theirs), theirs)
    for key, score in found.items():
        assert key in IDEAL, f"give {key} its ideal value here"
        ideal = IDEAL[key]
        if ideal is not None:
            assert score.value == pytest.approx(ideal, abs=1e-5)
        if key not in LIKE_NOISE:
            assert (worse[key].value < score.value) == (score.better == "up"), key
            assert worse[key].value != pytest.approx(score.value, rel=1e-3)


def test_delta_dit_with_an_empty_range_is_the_plain_model_at_any_schedule(folders: dict[str, Path]) -> None:
    model = component("dit", folders["dit"]).load()
    pair = Pair.of("dit", model, DeltaDiT(skipped=0, boundary=0.5, keep=1))
    assert pair.latents(pair.schedule).equal(pair.latents(pair.every))


@pytest.mark.parametrize("strategy", names("cache"))
@pytest.mark.parametrize("family", WRITERS)
def test_taylor_of_order_0_is_plain_reuse_bit_for_bit(family: str, strategy: str, folders: dict[str, Path]) -> None:
    made = component(family, folders[family])
    if made.family not in built("cache", strategy).families:
        pytest.skip("of another family")
    pair = Pair.of(family, made.load(), built("cache", strategy))
    order_0 = Taylor(order=0, differences="divided")
    assert pair.latents(pair.schedule, predictor=order_0).equal(pair.latents(pair.schedule))
