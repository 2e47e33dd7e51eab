"""The denoising loop: nothing added is the plain diffusers loop; what it caches is what it says."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.calibrate.predicted import batch_moments, merged_moments
from cq.core.acceleration import NO_CORRECTION, Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Predictor
from cq.core.denoise import DenoiseStep, denoise
from cq.core.denoiser import Denoiser, DenoiserOutput
from cq.core.moments import PairMoments
from cq.core.seeding import initial_noise
from cq.models.diffusion import DiffusionModel
from cq.models.latent import LatentDiffusion
from cq.predict.forecast import forecast_of
from cq.predict.taylor import Taylor

CALLS = 4
SITE = "up_blocks.2.resnets.2"


def refreshing(*calls: int, num_calls: int = CALLS) -> CacheSchedule:
    return CacheSchedule(num_calls=num_calls, refresh_calls=calls, planner="test", interval=None)


EVERY = refreshing(0, 1, 2, 3)


class Doubling:
    """Doubles twice: 10 becomes 40. What can be cached is what the doubling added, 30."""

    sites = ("added",)

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        if reuse:
            return DenoiserOutput(x_NCHW + reuse["added"], {})
        return DenoiserOutput(2 * (2 * x_NCHW), {"added": 2 * (2 * x_NCHW) - x_NCHW})


class CountingUp:
    """A sampler that adds one whatever the prediction: 10, 11, 12, ..."""

    init_noise_sigma = 1.0

    def __init__(self, num_calls: int) -> None:
        self.timesteps = torch.arange(num_calls).flip(0)

    def scale_model_input(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x

    def step(self, eps: Tensor, timestep: Tensor, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=x + 1)


def outputs_of_doubling(schedule: CacheSchedule, correction: ChannelAffine = NO_CORRECTION) -> list[float]:
    start = torch.full((1, 1, 1, 1), 10.0)
    steps = denoise(
        Doubling(),
        CountingUp(schedule.num_calls),
        start,
        cond=None,
        acceleration=Acceleration(schedule=schedule, cache=correction),
    )  # fmt: skip
    return [float(step.output.eps_NCHW) for step in steps]


def test_eleven_becomes_44_when_computed_and_41_with_what_was_added_to_ten() -> None:
    assert isinstance(Doubling(), Denoiser)
    assert outputs_of_doubling(refreshing(0, 1, num_calls=2)) == [40, 44]
    assert outputs_of_doubling(refreshing(0, num_calls=2)) == [40, 41]
    assert outputs_of_doubling(refreshing(0, 2, num_calls=5)) == [40, 41, 48, 12 + 37, 12 + 38]


def test_a_correction_changes_reused_maps_only_and_never_accumulates() -> None:
    """Gain 2 and offset 1 make 61 of 30, at every reuse afresh; at a refresh they are not applied."""
    schedule = refreshing(0, 3)
    table = torch.tensor([2.0, 1.0])[:, None].expand(CALLS, 2, 1)
    correction = ChannelAffine(schedule=schedule.identity, tables={"added": table}, r2={})
    assert outputs_of_doubling(schedule, correction) == [40, 11 + 61, 12 + 61, 52]


def test_each_call_has_its_own_gain_and_offset() -> None:
    schedule = refreshing(0)
    table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [0.0, 7.0]])[..., None]
    correction = ChannelAffine(schedule=schedule.identity, tables={"added": table}, r2={})
    assert outputs_of_doubling(schedule, correction) == [40, 11 + 30, 12 + 60, 13 + 7]


def test_a_step_tells_call_timestep_state_and_fresh_maps() -> None:
    steps = list(
        denoise(
            Doubling(), CountingUp(3), torch.full((1, 1, 1, 1), 10.0), cond=None,
            acceleration=Acceleration(schedule=refreshing(0, 2, num_calls=3)),
        )
    )  # fmt: skip
    assert [step.call for step in steps] == [0, 1, 2]
    assert [int(step.timestep) for step in steps] == [2, 1, 0]
    assert [float(step.x_NCHW) for step in steps] == [11, 12, 13]
    assert [list(step.output.features) for step in steps] == [["added"], [], ["added"]]


def test_no_gradients_are_tracked() -> None:
    start = torch.full((1, 1, 1, 1), 10.0, requires_grad=True)
    for step in denoise(
        Doubling(), CountingUp(2), start, cond=None, acceleration=Acceleration(schedule=refreshing(0, num_calls=2))
    ):
        assert not step.x_NCHW.requires_grad
        assert not step.output.eps_NCHW.requires_grad
        assert torch.is_grad_enabled()  # around the loop nothing changes


def test_a_schedule_for_another_number_of_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="for 3 calls, the sampler makes 4"):
        next(
            denoise(
                Doubling(), CountingUp(4), torch.ones(1), cond=None,
                acceleration=Acceleration(schedule=refreshing(0, num_calls=3)),
            )
        )  # fmt: skip


def test_a_correction_fitted_for_another_schedule_is_refused() -> None:
    table = torch.ones(CALLS, 2, 1)
    other = ChannelAffine(schedule=refreshing(0, 2).identity, tables={"added": table}, r2={})
    with pytest.raises(ValueError, match="fitted for schedule"):
        outputs_of_doubling(refreshing(0), other)
    short = ChannelAffine(schedule="", tables={"added": table[1:]}, r2={})
    with pytest.raises(ValueError, match="not for 4 calls"):
        outputs_of_doubling(refreshing(0), short)


@pytest.fixture(scope="module")
def model(tiny: LatentDiffusion) -> DiffusionModel:
    return tiny.load()


def latents(
    model: DiffusionModel, seeds: tuple[int, ...], schedule: CacheSchedule = EVERY,
    correction: ChannelAffine = NO_CORRECTION, denoiser: Any = None,
) -> list[Tensor]:  # fmt: skip
    """The state after every call."""
    steps = denoise(
        model.denoiser if denoiser is None else denoiser, model.noise_scheduler(schedule.num_calls),
        initial_noise(seeds, model.component.latent_shape),
        cond=model.condition(torch.tensor([seed % 10 for seed in seeds])),
        acceleration=Acceleration(schedule=schedule, cache=correction),
    )  # fmt: skip
    return [step.x_NCHW for step in steps]


def test_no_cache_and_no_correction_are_the_plain_diffusers_loop_bit_for_bit(tiny: LatentDiffusion) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from cq.models.class_embedder import ClassEmbedder

    folder, seeds, labels = tiny.weights, (0, 1), torch.tensor([0, 1])
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    embedder = ClassEmbedder.from_pretrained(folder, subfolder="class_embedder").eval()
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(CALLS)
    with torch.no_grad():
        context = embedder(torch.cat([torch.full((2,), 10), labels]))
        x = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        plain = []
        for t in scheduler.timesteps:
            null, conditional = unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.chunk(2)
            x = scheduler.step(null + 1.5 * (conditional - null), t, x, eta=0.0).prev_sample
            plain.append(x)
        images = vae.decode(x / vae.config.scaling_factor).sample
    model = tiny.load()
    found = latents(model, seeds)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert torch.equal(model.decode(found[-1]), ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


def test_gain_one_and_offset_zero_are_no_correction_bit_for_bit(model: DiffusionModel) -> None:
    schedule = refreshing(0, 2)
    identity = torch.tensor([1.0, 0.0])[:, None].expand(CALLS, 2, 8)
    correction = ChannelAffine(schedule=schedule.identity, tables={SITE: identity}, r2={})
    plain = latents(model, (0, 1), schedule)
    assert all(torch.equal(a, b) for a, b in zip(latents(model, (0, 1), schedule, correction), plain, strict=True))
    assert not torch.equal(plain[-1], latents(model, (0, 1))[-1])  # the cache is really in use


def test_seeds_alone_determine_the_latents_bit_for_bit(model: DiffusionModel, tiny: LatentDiffusion) -> None:
    first = latents(model, (4, 5), refreshing(0, 2))
    torch.manual_seed(99)
    again = latents(tiny.load(), (4, 5), refreshing(0, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_image_alone_equals_the_same_image_in_a_batch(model: DiffusionModel) -> None:
    batch = latents(model, (0, 1, 2), refreshing(0, 2))[-1]
    for i in range(3):
        alone = latents(model, (i,), refreshing(0, 2))[-1]
        # other batch sizes take other float32 kernels; latents reach 40
        assert_close(alone[0], batch[i], rtol=1e-4, atol=1e-4)


def test_another_batch_in_between_changes_nothing(model: DiffusionModel) -> None:
    schedule = refreshing(0, 2)
    expected = latents(model, (0, 1), schedule)

    def loop(seeds: tuple[int, ...]) -> Any:
        cond = model.condition(torch.tensor(seeds))
        start = initial_noise(seeds, model.component.latent_shape)
        return denoise(
            model.denoiser, model.noise_scheduler(CALLS), start, cond=cond, acceleration=Acceleration(schedule=schedule)
        )

    for (first, _), x in zip(zip(loop((0, 1)), loop((7, 8)), strict=True), expected, strict=True):
        assert torch.equal(first.x_NCHW, x)


class FailsAt:
    """Passes calls on until call `at`, where a layer of the network raises, in the middle of the computation."""

    def __init__(self, inner: Any, at: int) -> None:
        self.inner, self.at, self.sites = inner, at, inner.sites

    def __call__(self, x_NCHW: Tensor, *, call: int, **rest: Any) -> Any:
        if call != self.at:
            return self.inner(x_NCHW, call=call, **rest)

        def fail(*_: Any) -> None:
            raise RuntimeError("injected")

        with self.inner.network.backbone.conv_out.register_forward_hook(fail):
            return self.inner(x_NCHW, call=call, **rest)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_exception_inside_a_call_leaves_no_hook_and_no_state(model: DiffusionModel, at: int) -> None:
    schedule = refreshing(0, 2)
    expected = latents(model, (0, 1), schedule)
    with pytest.raises(RuntimeError, match="injected"):
        latents(model, (0, 1), schedule, denoiser=FailsAt(model.denoiser, at))
    modules = model.denoiser.network.backbone.modules()
    assert not [module for module in modules if module._forward_hooks or module._forward_pre_hooks]
    with pytest.raises(RuntimeError, match="no denoiser call is running"):
        _ = model.denoiser.call_index.value
    assert torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(latents(model, (0, 1), schedule), expected, strict=True))


def test_an_abandoned_loop_leaves_no_hook_and_no_state(model: DiffusionModel) -> None:
    expected = latents(model, (0, 1), refreshing(0, 2))
    steps = denoise(
        model.denoiser, model.noise_scheduler(CALLS), initial_noise((5,), (4, 8, 8)),
        cond=model.condition(torch.tensor([5])), acceleration=Acceleration(schedule=refreshing(0, 2)),
    )  # fmt: skip
    next(steps)
    assert torch.is_grad_enabled()
    del steps
    assert all(torch.equal(a, b) for a, b in zip(latents(model, (0, 1), refreshing(0, 2)), expected, strict=True))


def test_an_unguided_denoiser_runs_without_conditions(model: DiffusionModel) -> None:
    unguided = replace(model.denoiser, guidance=None)
    steps = denoise(
        unguided, model.noise_scheduler(CALLS), initial_noise((0, 1), (4, 8, 8)),
        cond=model.condition(torch.tensor([0, 1]))[2:], acceleration=Acceleration(schedule=refreshing(0, 2)),  # type: ignore[index]
    )  # fmt: skip
    assert [len(step.output.features.get(SITE, ())) for step in steps] == [2, 0, 2, 0]


class Polynomial:
    """Its map at a call is a polynomial of the call, whatever the state; it keeps what it was given instead."""

    sites = ("map",)

    def __init__(self, degree: int) -> None:
        self.degree = degree
        self.given: dict[int, float] = {}

    def at(self, call: int) -> Tensor:
        return torch.full((1, 1, 1, 1), sum((power + 1.0) * call**power for power in range(self.degree + 1)))

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        if reuse:
            self.given[call] = float(reuse["map"])
        return DenoiserOutput(x_NCHW, {} if reuse else {"map": self.at(call)})


def forecasting(schedule: CacheSchedule, predictor: Predictor) -> Acceleration:
    return Acceleration(schedule=schedule, forecast=forecast_of(schedule, predictor))


def moments_of(steps: Iterator[DenoiseStep], acceleration: Acceleration) -> PairMoments:
    return merged_moments([batch_moments(steps, acceleration=acceleration, sites=("map",))], ("map",))["map"]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_series_of_order_p_foresees_a_polynomial_of_degree_p(order: int) -> None:
    """From the last p + 1 refreshes, whatever their spacing; in sampling and where its moments are gathered."""
    refreshes = (0, 1, 3, 6, 11)
    schedule = refreshing(*refreshes, num_calls=16)
    start, predictor = torch.ones(1, 1, 1, 1), Taylor(order=order, differences="divided")
    network = Polynomial(order)
    for _ in denoise(network, CountingUp(16), start, cond=None, acceleration=forecasting(schedule, predictor)):
        pass
    assert network.given.keys() == {*range(16)} - {*refreshes}
    known = {call for call in network.given if sum(refresh < call for refresh in refreshes) > order}
    assert all(network.given[call] == pytest.approx(float(network.at(call))) for call in known)
    every = refreshing(*range(16), num_calls=16)
    steps = denoise(network, CountingUp(16), start, cond=None, acceleration=Acceleration(schedule=every))
    moments = moments_of(steps, forecasting(schedule, predictor))
    for call in known | {*refreshes}:
        true = float(network.at(call))
        found = [float(moments.source_TC[call, 0]), float(moments.target_TC[call, 0])]
        assert found == pytest.approx([true, true])


class Picks:
    """The map of one refresh alone: the newest (0), the one before, or the oldest that is kept."""

    depth = 3

    def __init__(self, which: int) -> None:
        self.which = which
        self.asked: dict[int, tuple[int, ...]] = {}

    def weights(self, call: int, refreshes: tuple[int, ...]) -> tuple[float, ...]:
        self.asked[call] = refreshes
        return tuple(float(place == min(self.which, len(refreshes) - 1)) for place in range(len(refreshes)))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_forecast_is_asked_about_the_last_refreshes_newest_first_and_weighs_their_own_maps(which: int) -> None:
    refreshes = (0, 1, 3, 6, 11)
    network, predictor = Polynomial(1), Picks(which)
    schedule, start = refreshing(*refreshes, num_calls=16), torch.ones(1, 1, 1, 1)
    forecast = forecasting(schedule, predictor)
    for _ in denoise(network, CountingUp(16), start, cond=None, acceleration=forecast):
        pass
    past = {call: [refresh for refresh in refreshes if refresh < call][:-4:-1] for call in network.given}
    assert {call: [*asked] for call, asked in predictor.asked.items()} == past
    picked = {call: float(network.at(last[min(which, len(last) - 1)])) for call, last in past.items()}
    assert network.given == picked
    every = refreshing(*range(16), num_calls=16)
    steps = denoise(network, CountingUp(16), start, cond=None, acceleration=Acceleration(schedule=every))
    moments = moments_of(steps, forecast)
    assert {call: float(moments.source_TC[call, 0]) for call in picked} == picked
