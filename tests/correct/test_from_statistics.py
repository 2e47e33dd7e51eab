"""One calibration pass holds the moments of every schedule that fits its window."""

import pytest
import torch
from torch.testing import assert_close

from cq.core.artifacts import CacheSchedule
from cq.core.moments import PairMoments
from cq.correct.channel_affine import ChannelAffineFit
from cq.correct.from_statistics import identity_at_refresh, moments_for_schedule
from cq.laws.drift import SITE, drifting_maps, last_refresh, statistics_of

T = 9
NAMES = ("source_TC", "target_TC", "source_square_TC", "target_square_TC", "cross_TC")


def schedule_of(*calls: int, num_calls: int = T) -> CacheSchedule:
    return CacheSchedule(num_calls=num_calls, refresh_calls=calls, planner="test", interval=None)


@pytest.mark.parametrize("calls", [(0, 4), (0, 1, 2, 6, 8), tuple(range(T)), (0, 5)])
def test_moments_equal_those_of_the_pairs_themselves(calls: tuple[int, ...]) -> None:
    maps, schedule = drifting_maps(T, seed=0), schedule_of(*calls)
    found = moments_for_schedule(statistics_of(maps, window=4), schedule, SITE)
    direct = PairMoments.stack([PairMoments.of(maps[last_refresh(schedule, t)], maps[t]) for t in range(T)])
    assert_close(found.count.expand(T, 1), direct.count)
    for name in NAMES:
        # sums of 75 numbers in another order
        assert_close(getattr(found, name), getattr(direct, name), rtol=1e-12, atol=1e-12)


def test_samples_collected_in_two_passes_and_added_equal_one_pass() -> None:
    maps, schedule = drifting_maps(T, seed=1, samples=6), schedule_of(0, 3, 6)
    halves = [
        moments_for_schedule(statistics_of(part, window=3), schedule, SITE) for part in (maps[:, :2], maps[:, 2:])
    ]
    whole = moments_for_schedule(statistics_of(maps, window=3), schedule, SITE)
    for name in NAMES:
        assert_close(getattr(halves[0] + halves[1], name), getattr(whole, name), rtol=1e-12, atol=1e-12)  # order


def test_refresh_calls_need_no_correction() -> None:
    maps, schedule = drifting_maps(T, seed=2), schedule_of(0, 4, 7)
    found = ChannelAffineFit(min_variance=1e-10).fit(
        moments_for_schedule(statistics_of(maps, window=4), schedule, SITE), bias_C=None
    )
    fresh = list(schedule.refresh_calls)
    ones = torch.ones(3, 4, dtype=torch.float64)
    assert_close(found[0][fresh], ones, rtol=1e-12, atol=1e-12)  # a sum divided by itself, after centring
    gain, offset = identity_at_refresh(*found, schedule)
    assert torch.equal(gain[fresh], ones)
    assert torch.equal(offset[fresh], 0 * ones)
    stale = [t for t in range(T) if t not in fresh]
    assert torch.equal(gain[stale], found[0][stale])
    assert torch.equal(offset[stale], found[1][stale])


def test_setting_the_identity_leaves_its_arguments_alone() -> None:
    gain = torch.full((T, 2), 3.0)
    identity_at_refresh(gain, gain, schedule_of(0))
    assert (gain == 3).all()


def test_the_longest_group_may_fill_the_window_but_not_exceed_it() -> None:
    statistics = statistics_of(drifting_maps(T, seed=3), window=4)
    moments_for_schedule(statistics, schedule_of(0, 4), SITE)  # groups of 4 and 5 calls reach 4 back
    with pytest.raises(ValueError, match=r"calibrate.max_interval to at least 3"):
        moments_for_schedule(statistics, schedule_of(0, 3), SITE)


def test_a_schedule_of_another_number_of_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="the schedule has 8 calls, the calibration statistics 9"):
        moments_for_schedule(statistics_of(drifting_maps(T, seed=4), window=4), schedule_of(0, 4, num_calls=8), SITE)
