"""The laws of correctors."""

import torch
from torch import Tensor

from cq.core.acceleration import NO_CORRECTION
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.fit import residual_sum_of_squares
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.tables import fit_tables
from cq.laws.drift import SITE, drifting_maps, last_refresh, statistics_of
from cq.laws.law import Make, Untried, World, hold

CALLS = 9
SCHEDULE = CacheSchedule(num_calls=CALLS, refresh_calls=(0, 2, 5), planner="test", interval=3)
REUSED = [call for call in range(CALLS) if call not in SCHEDULE.refresh_calls]


def moments_of(maps: Tensor) -> PairMoments:
    """Of what the schedule reuses at each call, and what it stands for."""
    return moments_for_schedule(statistics_of(maps, window=4), SCHEDULE, SITE)


def residuals(corrector: Corrector, *, seed: int) -> tuple[Tensor, Tensor]:
    """Sums of squares [T, C] on the data of the fit: without and with it."""
    moments = moments_of(drifting_maps(CALLS, seed=seed))
    gain_TC, offset_TC = corrector.fit(moments, bias_C=torch.randn(4))
    before_TC = residual_sum_of_squares(moments, torch.ones_like(gain_TC), torch.zeros_like(offset_TC))
    return before_TC, residual_sum_of_squares(moments, gain_TC, offset_TC)


def tables(corrector: Corrector, moments: PairMoments) -> ChannelAffine:
    """As the cache's correction is fitted."""
    return fit_tables(corrector, SCHEDULE, lambda: {SITE: moments}, biases={SITE: None}, identity_at_full=True)


def a_fit_is_better_than_none_on_its_own_data(make: Make, world: World) -> None:
    if not make().corrects:
        raise Untried("corrects nothing")
    for seed in range(5):
        before, after = (float(sums_TC[REUSED].sum()) for sums_TC in residuals(make(), seed=seed))
        told = f"the squared error of what it was fitted to goes from {before:.4g} to {after:.4g}"
        hold(after < before, f"{told}. Look for a sign: target ~= gain * source + offset.")


def a_fresh_map_is_left_as_it_is(make: Make, world: World) -> None:
    found = tables(make(), moments_of(drifting_maps(CALLS, seed=0)))
    for table_T2C in found.tables.values():
        for call in range(CALLS):
            identity = bool((table_T2C[call, 0] == 1).all() and (table_T2C[call, 1] == 0).all())
            told = f"call {call}, {'reused' if call in REUSED else 'fresh'}: "
            hold(identity == (call not in REUSED), f"{told}gain 1 and offset 0 is {identity}. Fit every reused call.")
    x_NCHW = torch.randn(2, 4, 5, 5)
    for call in SCHEDULE.refresh_calls:
        hold(torch.equal(found.apply(x_NCHW, name=SITE, call=call), x_NCHW), f"call {call}: a fresh map is changed.")


def constant_channels_get_finite_numbers_and_stay_constant_ones(make: Make, world: World) -> None:
    """Channels of zeros, of one value, of a value a call, and one that stands still and then moves."""
    maps = drifting_maps(CALLS, seed=0)
    maps[:, :, 0] = 0
    maps[:, :, 1] = 1e6 / 3
    maps[:, :, 2] = torch.arange(CALLS, dtype=torch.float64)[:, None, None, None] / 7
    maps[:3, :, 3] = 0.1
    moments = moments_of(maps)
    for bias in (None, 3.0):
        for name, value in zip(
            ("gain", "offset"),
            make().fit(moments, bias_C=None if bias is None else torch.full((4,), bias)),
            strict=True,
        ):
            shape = (value.dtype, value.shape) == (torch.float64, (CALLS, 4))
            hold(shape, f"{name}: {value.dtype}, {tuple(value.shape)}. Return float64 [T, C], here {(CALLS, 4)}.")
            told = f"{name} of a channel that does not vary is not finite"
            hold(value.isfinite().all(), f"{told}. Where the variance is 0, take gain 1 and the difference of means.")
    found = tables(make(), moments)
    hold(
        found.tables.keys() == ({SITE} if make().corrects else set()), "fits a table exactly where `corrects` says so."
    )
    hold(
        all(value.isfinite().all() for value in found.r2.values()),
        "explains a share of the variance that is no number.",
    )


def constant_channels_end_at_their_value(make: Make, world: World) -> None:
    """What every least-squares fit does, and a fit in part does not."""
    maps = drifting_maps(CALLS, seed=0)
    maps[:, :, 0] = 0
    maps[:, :, 1] = 1e6 / 3
    maps[:, :, 2] = torch.arange(CALLS, dtype=torch.float64)[:, None, None, None] / 7
    found = tables(make(), moments_of(maps))
    for call in range(CALLS) if found.tables else ():
        out = found.apply(maps[last_refresh(SCHEDULE, call)].float(), name=SITE, call=call)
        torch.testing.assert_close(out[:, :3], maps[call][:, :3].float(), rtol=1e-5, atol=1e-5)


def a_fit_does_not_change_the_moments(make: Make, world: World) -> None:
    moments, again = (moments_of(drifting_maps(CALLS, seed=0)) for _ in range(2))
    make().fit(moments, bias_C=torch.randn(4))
    for field in moments.__dataclass_fields__:
        same = torch.equal(getattr(moments, field), getattr(again, field))
        hold(same, f"fit changes moments.{field}, which others read. Write no `+=` to it.")


def what_corrects_nothing_is_the_identity_and_gathers_nothing(make: Make, world: World) -> None:
    if make().corrects:
        raise Untried("corrects")
    gain_TC, offset_TC = make().fit(moments_of(drifting_maps(CALLS, seed=0)), bias_C=None)
    identity = bool((gain_TC == 1).all() and (offset_TC == 0).all())
    hold(
        identity, "corrects=False, and fit returns another gain than 1 or another offset than 0. Let `corrects` say so."
    )
    gathered: list[int] = []

    def gather() -> dict[str, PairMoments]:
        gathered.append(1)
        return {SITE: moments_of(drifting_maps(CALLS, seed=0))}

    found = fit_tables(make(), SCHEDULE, gather, biases={SITE: None}, identity_at_full=True)
    hold(found == NO_CORRECTION and not gathered, "corrects=False, and moments are gathered all the same.")


CORRECTOR = (
    a_fit_is_better_than_none_on_its_own_data, a_fresh_map_is_left_as_it_is,
    constant_channels_get_finite_numbers_and_stay_constant_ones, a_fit_does_not_change_the_moments,
    what_corrects_nothing_is_the_identity_and_gathers_nothing,
)  # fmt: skip
