"""What two parts demand of each other: refused where it is known beforehand, and nowhere else."""

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.calibrate.trajectory import Calibrate
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import Corrector, PlanRequest, Predictor, SchedulePlanner
from cq.core.moments import PairMoments
from cq.correct.channel_affine import ChannelAffineFit
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.none import NoCorrection
from cq.correct.offset_only import OffsetOnly
from cq.cost.l1 import L1
from cq.cost.weighted import Weighted
from cq.evaluate.fidelity import Fidelity
from cq.evaluate.outliers import Outliers
from cq.laws.drift import SITE, drifting_maps, statistics_of
from cq.predict.last import Last
from cq.predict.taylor import Taylor
from cq.run.preflight import check_cost, check_names, check_reach, known_schedule
from cq.schedule.dps import DPS
from cq.schedule.none import NoCache
from cq.schedule.threshold import Threshold
from cq.schedule.uniform import Uniform

CALLS = 12
FIT = ChannelAffineFit(min_variance=1e-10)


def check(
    max_interval: int, planner: SchedulePlanner, corrector: Corrector = NoCorrection(), predictor: Predictor = Last(),  # noqa: B008
    num_calls: int = CALLS,
) -> None:  # fmt: skip
    calibrate = Calibrate(num_samples=1, batch_size=1, max_interval=max_interval)
    check_reach(planner, corrector, predictor, calibrate=calibrate, cost=L1(), num_calls=num_calls)


def dps(interval: int, max_group: int | None = None) -> DPS:
    return DPS(interval=interval, num_groups=None, min_group=None, max_group=max_group)


@pytest.mark.parametrize("interval", [1, 2, 3, 4])
def test_dps_is_refused_exactly_where_its_own_plan_would_refuse(interval: int) -> None:
    maps = drifting_maps(CALLS, seed=0)
    refusals = 0
    for max_interval in range(1, 6):
        statistics = statistics_of(maps, window=2 * max_interval - 1)
        request = PlanRequest(num_calls=CALLS, cost=L1(), statistics=statistics)
        try:
            dps(interval).plan(request)
        except ValueError:
            refusals += 1
            with pytest.raises(ValueError, match=rf"calibrate\.max_interval={max_interval}: .*schedule=DPS"):
                check(max_interval, dps(interval))
        else:
            check(max_interval, dps(interval))
    assert refusals == interval - 1


@pytest.mark.parametrize("interval", [1, 2, 5, 12])
def test_the_correction_of_plain_reuse_is_refused_exactly_where_it_could_not_be_fitted(interval: int) -> None:
    maps = drifting_maps(CALLS, seed=0)
    for max_interval in range(1, 7):
        statistics = statistics_of(maps, window=min(2 * max_interval - 1, CALLS - 1))
        request = PlanRequest(num_calls=CALLS, cost=L1())
        schedule = Uniform(interval=interval).plan(request)
        try:
            moments_for_schedule(statistics, schedule, SITE)
        except ValueError as error:
            told = re.escape(str(error).partition("Set ")[2].rstrip("."))
            with pytest.raises(ValueError, match=rf"calibrate\.max_interval={max_interval}: .*Uniform.*{told}"):
                check(max_interval, Uniform(interval=interval), OffsetOnly())
        else:
            check(max_interval, Uniform(interval=interval), OffsetOnly())


@pytest.mark.parametrize(
    "stored",
    [{"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}],
    ids=lambda stored: next(iter(stored)),
)
def test_a_cost_weighted_by_noise_levels_wants_a_network_that_predicts_noise(stored: dict[str, object]) -> None:
    weighted, model = Weighted(base="l1", power=0.5), SimpleNamespace(noise={"_class_name": "DDIMScheduler", **stored})
    with pytest.raises(ValueError, match=f"cost=Weighted: .*{next(iter(stored))}.*cost=l1"):
        check_cost(weighted, dps(2), model)
    check_cost(L1(), dps(2), model)
    check_cost(weighted, Uniform(interval=2), model)


def test_what_needs_no_statistics_is_let_through() -> None:
    check(1, Uniform(interval=12))
    check(1, Uniform(interval=12), FIT, Taylor(order=1, differences="divided"))  # fitted from a pass of its own
    check(1, NoCache(), FIT)
    check(1, Threshold(interval=6, threshold=None))
    check(1, Threshold(interval=6, threshold=None), FIT)  # its groups are known only when it has planned


def test_a_single_call_looks_back_on_none() -> None:
    check(1, Threshold(interval=1, threshold=None), FIT, num_calls=1)
    check(1, Uniform(interval=1), FIT, num_calls=1)


@dataclass(frozen=True, kw_only=True)
class OneGroup:
    """A planner with neither statistics nor `reach`, as anyone may write it."""

    def check(self, num_calls: int) -> None: ...

    def plan(self, request: PlanRequest) -> CacheSchedule:
        return CacheSchedule(num_calls=request.num_calls, refresh_calls=(0,), planner="one", interval=None)


class Doubling:
    """A corrector that looks at no moments, but is not the identity either."""

    corrects = True

    def fit(self, moments: PairMoments, *, bias_C: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.full((CALLS, 1), 2.0), torch.zeros(CALLS, 1)


def test_parts_from_elsewhere_are_understood() -> None:
    assert isinstance(OneGroup(), SchedulePlanner)
    check(1, OneGroup())
    with pytest.raises(ValueError, match="schedule=OneGroup needs 11"):
        check(5, OneGroup(), FIT)
    check(6, OneGroup(), FIT)
    with pytest.raises(ValueError, match=r"correct\.cache=Doubling"):
        check(1, OneGroup(), Doubling())  # its fit is scored against the moments


@dataclass(frozen=True, kw_only=True)
class Asking(OneGroup):
    """One that reads statistics and does not say so."""

    def plan(self, request: PlanRequest) -> CacheSchedule:
        return CacheSchedule(num_calls=request.gathered.num_calls, refresh_calls=(0,), planner="asking", interval=None)


def test_a_planner_that_reads_statistics_and_does_not_say_so_is_told_what_to_add() -> None:
    with pytest.raises(ValueError, match=r"reads statistics and does not say how far.*`reach` and `refreshes`"):
        check(6, Asking(), FIT)


def test_two_metrics_of_one_score_are_refused_by_their_keys() -> None:
    one, other = (Fidelity(batch_size=2, psnr_cap_db=cap, resamples=40, bootstrap_seed=0) for cap in (100.0, 20.0))
    with pytest.raises(ValueError, match=r"metrics\.other: its score psnr_fp_db is that of metrics\.one, too"):
        check_names({"one": one, "other": other})
    check_names({"one": one, "outliers": Outliers(limit=0.3, resamples=40, bootstrap_seed=0)})


def test_a_planner_that_breaks_while_it_is_asked_is_told_by_its_name() -> None:
    class Broken(Uniform):
        def plan(self, request: Any) -> Any:
            raise RuntimeError("boom")

    with pytest.raises(ValueError, match=r"schedule=Broken: plan raised RuntimeError: boom for 8 calls"):
        known_schedule(Broken(interval=2), L1(), 8)
