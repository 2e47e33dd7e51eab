"""A diagnosis against what one computes by hand."""

import math

import pytest
import torch

from cq.core.acceleration import every_call
from cq.core.artifacts import CacheSchedule
from cq.core.seeding import initial_noise
from cq.evaluate.diagnosis import Diagnosis, diagnosed, looked_at
from cq.evaluate.efficiency import call_macs
from cq.models.latent import LatentDiffusion
from tests.quantize.trajectories import CACHED, CALLS, PTQ_8, TinyRuns

SEEDS = (4, 5)  # not those that the quantizer saw
FIRST = "conv_in"


@pytest.fixture(scope="module")
def runs(tiny: LatentDiffusion) -> TinyRuns:
    return TinyRuns(model=tiny.load())


@pytest.fixture(scope="module")
def found(runs: TinyRuns) -> Diagnosis:
    params, denoiser = runs.calibrated(PTQ_8), runs.model.denoiser
    return diagnosed(
        denoiser, runs.twin(params), params, runs.steps(denoiser, SEEDS), calls=looked_at(CACHED),
        num_images=len(SEEDS), num_calls=CALLS,
    )  # fmt: skip


def test_a_few_calls_of_either_kind_are_looked_at() -> None:
    schedule = CacheSchedule(num_calls=20, refresh_calls=(0, 5, 10, 12, 15), planner="x", interval=None)
    assert looked_at(schedule) == (0, 1, 5, 7, 12, 13, 15, 19)
    assert looked_at(every_call(3)) == (0, 1, 2)


def test_the_first_layer_by_hand(runs: TinyRuns, found: Diagnosis) -> None:
    """Its input at call 0 is the noise itself, once for either half of the guidance."""
    params, denoiser = runs.calibrated(PTQ_8), runs.model.denoiser
    noise = initial_noise(SEEDS, (4, 8, 8))
    x = torch.cat([noise, noise])
    twin = runs.twin(params)
    with twin.call_index.at(0), torch.no_grad():
        target = denoiser.network.backbone.get_submodule(FIRST)(x).double()
        error = twin.network.backbone.get_submodule(FIRST)(x).double() - target
    place = found.layers.index(FIRST)
    assert float(found.error_KL[0, place]) == pytest.approx(float(error.square().sum() / target.square().sum()))
    assert 0 < float(found.error_KL[0, place]) < 1e-3
    scale, at = float(params.tensors[f"{FIRST}.input0/scale"][0]), found.inputs.index(f"{FIRST}.input0")
    low, high = x.flatten().quantile(torch.tensor([0.001, 0.999])).tolist()
    assert float(found.span_KI[0, at]) == pytest.approx(255 * scale / (high - low), rel=1e-4)
    low = -(float(params.tensors[f"{FIRST}.input0/zero_point"][0]) + 0.5) * scale
    beyond = ((x < low) | (x > low + 256 * scale)).float().mean()
    assert float(found.clipped_KI[0, at]) == pytest.approx(float(beyond))


def test_sums_by_channel_agree_with_the_error_of_the_layer(found: Diagnosis) -> None:
    """The first layer runs at every call, on as many values each."""
    place, calls = found.layers.index(FIRST), len(found.calls)
    assert calls == CALLS
    ratio = float(found.square_error[FIRST].sum() / found.square[FIRST].sum())
    errors = found.error_KL[:, place].tolist()
    assert min(errors) <= ratio <= max(errors)
    assert bool((found.mean_error[FIRST].square() <= found.square_error[FIRST]).all())
    assert float(found.share_L.sum()) == pytest.approx(1)


def test_the_operations_that_ran_are_those_of_the_schedule(runs: TinyRuns, found: Diagnosis) -> None:
    denoiser = runs.model.denoiser
    cond = runs.model.condition(torch.tensor([0]))
    assert cond is not None
    whole, cached = (
        sum(macs.values())
        for macs in call_macs(denoiser.network, latent_shape=(4, 8, 8), cond=cond[:1], sites=denoiser.sites)
    )
    assert found.macs_T.tolist() == [whole, cached, whole, cached]


def test_a_layer_before_the_cut_does_not_run_at_cached_calls(found: Diagnosis) -> None:
    deep = found.layers.index("mid_block.resnets.0.conv1")
    assert [math.isnan(error) for error in found.error_KL[:, deep].tolist()] == [False, True, False, True]
    assert float(found.relative_error_L[deep]) > 0
