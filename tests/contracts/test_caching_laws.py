"""The laws of caching, for every model family and every strategy that works on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, PixArtSigmaPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from torch.testing import assert_close

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import Predictor
from cq.core.denoise import denoise
from cq.core.phases import all_sites
from cq.core.seeding import initial_noise
from cq.models.diffusion import DiffusionModel
from cq.models.transformer import TransformerModel
from cq.predict.forecast import forecast_of
from cq.predict.last import Last
from cq.predict.taylor import Taylor
from cq.sampler.ddim import DDIM
from tests.families import PAIRS, STRATEGIES, component

STEPS = 5
every_pair = pytest.mark.parametrize(("family", "strategy"), PAIRS)


def load(folders: dict[str, Path], family: str, strategy: str = "cut") -> tuple[DiffusionModel, CacheSchedule]:
    """The model recording the strategy's sites, and a schedule that refreshes at calls 0 and 3."""
    chosen = component(family, folders[family])
    chosen.check()
    model = chosen.load()
    num_calls = model.sampler.num_calls(STEPS)
    blocks = model.denoiser.network.blocks
    phases = STRATEGIES[strategy].phases(default=chosen.site, blocks=blocks, num_calls=num_calls)
    schedule = CacheSchedule(num_calls=num_calls, refresh_calls=(0, 3), planner="test", interval=3, phases=phases)
    return replace(model, denoiser=model.denoiser.with_sites(all_sites(phases))), schedule


def every(schedule: CacheSchedule) -> CacheSchedule:
    return replace(schedule, refresh_calls=tuple(range(schedule.num_calls)))


def latents(
    model: DiffusionModel, schedule: CacheSchedule, seeds: tuple[int, ...] = (0, 1, 2), predictor: Predictor = Last(),  # noqa: B008
) -> Tensor:  # fmt: skip
    labels = torch.tensor([seed % max(1, model.component.num_classes) for seed in seeds])
    *_, last = denoise(
        model.denoiser, model.noise_scheduler(STEPS), initial_noise(seeds, model.component.latent_shape),
        cond=model.condition(labels),
        acceleration=Acceleration(schedule=schedule, forecast=forecast_of(schedule, predictor)),
    )  # fmt: skip
    return last.x_NCHW


@every_pair
@torch.no_grad()
def test_feeding_back_what_the_same_call_recorded_is_bit_identical(
    family: str, strategy: str, folders: dict[str, Path]
) -> None:
    model, schedule = load(folders, family, strategy)
    x = torch.randn(2, *model.component.latent_shape)
    options: dict[str, Any] = {"timestep": torch.tensor(400), "cond": model.condition(torch.tensor([0, 1]))}
    first = model.denoiser(x, call=0, reuse={}, **options)
    assert set(first.features) == set(model.denoiser.sites)
    for call in range(schedule.num_calls):
        sites = schedule.sites_at(call, default=())
        again = model.denoiser(x, call=0, reuse={site: first.features[site] for site in sites}, **options)
        assert torch.equal(again.eps_NCHW, first.eps_NCHW)


@every_pair
@torch.no_grad()
def test_a_cached_call_runs_less_and_depends_on_what_it_is_given(
    family: str, strategy: str, folders: dict[str, Path]
) -> None:
    if strategy == "delta_dit_empty":
        pytest.skip("skips nothing")
    model, schedule = load(folders, family, strategy)
    x = torch.randn(2, *model.component.latent_shape)
    options: dict[str, Any] = {"call": 0, "timestep": torch.tensor(400), "cond": model.condition(torch.tensor([0, 1]))}
    first = model.denoiser(x, reuse={}, **options)
    sites = schedule.sites_at(1, default=())
    ran: list[str] = []
    for name, module in model.denoiser.network.backbone.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.denoiser(x, reuse={}, **options)
    full, ran[:] = set(ran), []
    other = model.denoiser(x, reuse={site: first.features[site] + 1 for site in sites}, **options)
    assert set(ran) < full
    assert not torch.equal(other.eps_NCHW, first.eps_NCHW)


@every_pair
def test_refreshing_every_call_is_the_plain_model_whatever_the_strategy(
    family: str, strategy: str, folders: dict[str, Path]
) -> None:
    model, schedule = load(folders, family, strategy)
    plain, its_own = load(folders, family)
    assert torch.equal(latents(model, every(schedule)), latents(plain, every(its_own)))
    assert not torch.equal(latents(model, schedule), latents(plain, every(its_own))) or strategy == "delta_dit_empty"


def test_delta_dit_with_an_empty_range_is_the_plain_model_at_any_schedule(folders: dict[str, Path]) -> None:
    model, schedule = load(folders, "dit", "delta_dit_empty")
    assert torch.equal(latents(model, schedule), latents(model, every(schedule)))


@every_pair
@pytest.mark.parametrize("predictor", [Last(), Taylor(order=1, differences="divided")], ids=["last", "taylor"])
def test_an_image_alone_equals_the_same_image_in_a_batch(
    family: str, strategy: str, predictor: Predictor, folders: dict[str, Path]
) -> None:
    model, schedule = load(folders, family, strategy)
    together = latents(model, schedule, predictor=predictor)
    alone = torch.cat([latents(model, schedule, seeds=(seed,), predictor=predictor) for seed in (0, 1, 2)])
    assert_close(together, alone, rtol=1e-3, atol=1e-4)  # kernels for other batch sizes round in another order


@every_pair
def test_taylor_of_order_0_is_plain_reuse_bit_for_bit(family: str, strategy: str, folders: dict[str, Path]) -> None:
    model, schedule = load(folders, family, strategy)
    order_0 = Taylor(order=0, differences="divided")
    assert torch.equal(latents(model, schedule, predictor=order_0), latents(model, schedule))


def test_the_plain_loop_is_the_stock_dit_pipeline_bit_for_bit(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, schedule = load(folders, "dit")
    assert isinstance(model, TransformerModel)
    seen: list[Tensor] = []
    decode = model.vae.decode

    def keep(latents: Tensor) -> Any:
        seen.append(latents)
        return decode(latents)

    monkeypatch.setattr(model.vae, "decode", keep)
    backbone: Any = model.denoiser.network.backbone
    pipeline = DiTPipeline(transformer=backbone, vae=model.vae, scheduler=model.noise_scheduler(STEPS))
    pipeline.set_progress_bar_config(disable=True)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    pipeline([4, 7], guidance_scale=1.5, num_inference_steps=STEPS, generator=generator, output_type="pt")
    noise = torch.randn(2, 4, 8, 8, generator=again)
    *_, last = denoise(
        model.denoiser, model.noise_scheduler(STEPS), noise, cond=model.condition(torch.tensor([4, 7])),
        acceleration=Acceleration(schedule=every(schedule)),
    )  # fmt: skip
    assert torch.equal(seen[0] * model.vae.config.scaling_factor, last.x_NCHW)


def test_the_plain_loop_is_the_stock_stable_diffusion_pipeline_bit_for_bit(folders: dict[str, Path]) -> None:
    model, schedule = load(folders, "sd")
    pipeline = StableDiffusionPipeline.from_pretrained(folders["sd"])
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise((0, 1), (4, 8, 8))
    prompts = list(model.captions(torch.tensor([0, 1])))
    stock = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=7.5, latents=noise, output_type="latent"
    ).images  # fmt: skip
    assert schedule.num_calls == STEPS + 1
    assert torch.equal(stock, latents(model, every(schedule), seeds=(0, 1)))


STOCK: dict[str, tuple[Any, float, dict[str, Any]]] = {  # pipeline, guidance, and what it would do beside
    "sdxl": (StableDiffusionXLPipeline, 5.0, {"height": 32, "width": 32}),
    "pixart": (PixArtSigmaPipeline, 4.5, {"height": 32, "width": 32, "use_resolution_binning": False,
                                          "clean_caption": False}),
}  # fmt: skip


@pytest.mark.parametrize("family", STOCK)
def test_the_plain_loop_is_the_other_stock_text_pipelines_bit_for_bit(family: str, folders: dict[str, Path]) -> None:
    """With the scheduler that is stored, a DDIM, in both."""
    kind, guidance, options = STOCK[family]
    model, _ = load(folders, family)
    model = replace(model, sampler=DDIM())
    pipeline = kind.from_pretrained(folders[family])
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise((0, 1), (4, 8, 8))
    prompts = list(model.captions(torch.tensor([0, 1])))
    stock = pipeline(
        prompts, num_inference_steps=STEPS, guidance_scale=guidance, latents=noise, output_type="latent", **options
    ).images  # fmt: skip
    calls = CacheSchedule(num_calls=STEPS, refresh_calls=tuple(range(STEPS)), planner="test", interval=1)
    assert torch.equal(stock, latents(model, calls, seeds=(0, 1)))
