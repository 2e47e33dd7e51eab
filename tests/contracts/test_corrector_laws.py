"""The laws of correctors, for every yaml of the group."""

import pytest
import torch
from torch import Tensor

from cq.core.acceleration import NO_CORRECTION
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.fit import residual_sum_of_squares
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.tables import fit_tables
from tests.choices import built, names
from tests.oracles.pairwise import SITE, drifting_maps, last_refresh, statistics_of

CALLS = 9
SCHEDULE = CacheSchedule(num_calls=CALLS, refresh_calls=(0, 2, 5), planner="test", interval=3)
# release: its slope is (n - 1) / n of the least-squares one, and it fits the bias, too; ptqd: one slope a call
NOT_LEAST_SQUARES = ("release", "ptqd")
correctors = pytest.mark.parametrize("name", names("correct"))


def corrector(name: str) -> Corrector:
    made: Corrector = built("correct", name)
    assert isinstance(made, Corrector)
    return made


def moments_of(maps: Tensor) -> PairMoments:
    return moments_for_schedule(statistics_of(maps, window=4), SCHEDULE, SITE)


@correctors
@pytest.mark.parametrize("seed", range(5))
def test_least_squares_is_never_worse_than_the_identity_on_its_own_data(name: str, seed: int) -> None:
    if name in NOT_LEAST_SQUARES:
        pytest.skip("promises no least squares")
    moments = moments_of(drifting_maps(CALLS, seed=seed))
    gain_TC, offset_TC = corrector(name).fit(moments, bias_C=torch.randn(4))
    before_TC = residual_sum_of_squares(moments, torch.ones_like(gain_TC), torch.zeros_like(offset_TC))
    after_TC = residual_sum_of_squares(moments, gain_TC, offset_TC)
    assert (after_TC <= before_TC + 1e-9 * moments.target_square_TC).all()  # sums of squares that cancel
    reuse = [call for call in range(CALLS) if call not in SCHEDULE.refresh_calls]
    if corrector(name).corrects:
        assert (after_TC[reuse] < before_TC[reuse]).all()  # and a drift leaves something to gain


@correctors
def test_a_fresh_map_is_left_as_it_is(name: str) -> None:
    moments = moments_of(drifting_maps(CALLS, seed=0))
    found = fit_tables(
        corrector(name), SCHEDULE, lambda: {SITE: moments}, biases={SITE: None}, identity_at_full=True
    )  # fmt: skip
    for table_T2C in found.tables.values():
        for call in range(CALLS):
            identity = bool((table_T2C[call, 0] == 1).all() and (table_T2C[call, 1] == 0).all())
            assert identity == (call in SCHEDULE.refresh_calls)
    x_NCHW = torch.randn(2, 4, 5, 5)
    for call in SCHEDULE.refresh_calls:
        assert torch.equal(found.apply(x_NCHW, name=SITE, call=call), x_NCHW)


@correctors
@pytest.mark.parametrize("bias", [None, 3.0])
def test_constant_channels_get_finite_numbers_and_stay_constant_ones(name: str, bias: float | None) -> None:
    """Channels of zeros, of one value, of a value a call, and one that stands still and then moves."""
    maps = drifting_maps(CALLS, seed=0)
    maps[:, :, 0] = 0
    maps[:, :, 1] = 1e6 / 3
    maps[:, :, 2] = torch.arange(CALLS, dtype=torch.float64)[:, None, None, None] / 7
    maps[:3, :, 3] = 0.1
    moments = moments_of(maps)
    fitted = corrector(name).fit(moments, bias_C=None if bias is None else torch.full((4,), bias))
    for value in fitted:
        assert value.dtype == torch.float64
        assert value.shape == (CALLS, 4)
        assert value.isfinite().all()
    found = fit_tables(
        corrector(name), SCHEDULE, lambda: {SITE: moments}, biases={SITE: None}, identity_at_full=True
    )  # fmt: skip
    assert found.tables.keys() == ({SITE} if corrector(name).corrects else set())
    if not found.tables:
        return
    assert found.r2[SITE].isfinite().all()
    for call in range(CALLS):
        out = found.apply(maps[last_refresh(SCHEDULE, call)].float(), name=SITE, call=call)
        torch.testing.assert_close(out[:, :3], maps[call][:, :3].float(), rtol=1e-5, atol=1e-5)


@correctors
def test_a_fit_does_not_change_the_moments(name: str) -> None:
    moments = moments_of(drifting_maps(CALLS, seed=0))
    again = moments_of(drifting_maps(CALLS, seed=0))
    corrector(name).fit(moments, bias_C=torch.randn(4))
    for field in moments.__dataclass_fields__:
        assert torch.equal(getattr(moments, field), getattr(again, field))


def test_something_is_held_to_least_squares() -> None:
    fits = [name for name in names("correct") if corrector(name).corrects]
    assert len(set(fits) - set(NOT_LEAST_SQUARES)) >= 2


@correctors
def test_what_corrects_nothing_is_the_identity_and_gathers_nothing(name: str) -> None:
    chosen = corrector(name)
    if chosen.corrects:
        pytest.skip("corrects")
    gain_TC, offset_TC = chosen.fit(moments_of(drifting_maps(CALLS, seed=0)), bias_C=None)
    assert bool((gain_TC == 1).all() and (offset_TC == 0).all())
    found = fit_tables(chosen, SCHEDULE, lambda: pytest.fail("gathers"), biases={SITE: None}, identity_at_full=True)
    assert found == NO_CORRECTION
