"""The laws of caching: of a strategy on each model of its families, and of a model under its own cut point."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cq.cache.cut import CutPoint
from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import CacheStrategy, Predictor
from cq.core.denoise import denoise
from cq.core.phases import all_sites, sites_at
from cq.core.seeding import initial_noise
from cq.laws.law import Make, Untried, World, hold
from cq.models.diffusion import DiffusionModel, ModelComponent
from cq.predict.forecast import forecast_of
from cq.predict.last import Last
from cq.predict.taylor import Taylor

STEPS = 5
FORECASTS: tuple[Predictor, ...] = (Last(), Taylor(order=1, differences="divided"))


@dataclass(frozen=True)
class Pair:
    """A model that records the sites of a strategy, and a schedule that refreshes at calls 0 and 3. name: for words."""

    name: str
    model: DiffusionModel
    schedule: CacheSchedule

    @staticmethod
    def of(name: str, model: DiffusionModel, strategy: CacheStrategy) -> "Pair":
        num_calls = model.sampler.num_calls(STEPS)
        blocks, site = model.denoiser.network.blocks, model.component.site
        phases = strategy.phases(default=site, blocks=blocks, num_calls=num_calls)
        schedule = CacheSchedule(num_calls=num_calls, refresh_calls=(0, 3), planner="law", interval=3, phases=phases)
        return Pair(name, replace(model, denoiser=model.denoiser.with_sites(all_sites(phases))), schedule)

    @property
    def every(self) -> CacheSchedule:
        """Every call a refresh."""
        return replace(self.schedule, refresh_calls=tuple(range(self.schedule.num_calls)))

    def latents(
        self, schedule: CacheSchedule, seeds: tuple[int, ...] = (0, 1, 2), predictor: Predictor = FORECASTS[0]
    ) -> Tensor:
        """The last state of these images."""
        component = self.model.component
        labels = torch.tensor([seed % max(1, component.num_classes) for seed in seeds])
        *_, last = denoise(
            self.model.denoiser, self.model.noise_scheduler(STEPS), initial_noise(seeds, component.latent_shape),
            cond=self.model.condition(labels),
            acceleration=Acceleration(schedule=schedule, forecast=forecast_of(schedule, predictor)),
        )  # fmt: skip
        return last.x_NCHW

    def inputs(self) -> tuple[Tensor, dict[str, Any]]:
        """Noise, and what else a call of the denoiser takes."""
        x_NCHW = torch.randn(2, *self.model.component.latent_shape, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([0, min(1, max(0, self.model.component.num_classes - 1))])
        return x_NCHW, {"call": 0, "timestep": torch.tensor(400), "cond": self.model.condition(labels)}


def of_strategy(make: Make, world: World) -> Iterator[Pair]:
    """The strategy on every model of its families."""
    for name, model in world.models.items():
        if model.component.family in make().families:
            yield Pair.of(name, model, make())


def names_a_family_of_models(make: Make, world: World) -> None:
    known = {component.family for component in world.components.values()}
    told = f"families={make().families}: names none of {sorted(known)}. Name those whose sites it can choose."
    hold(known & set(make().families), told)


def phases_start_at_call_0_and_follow_each_other(make: Make, world: World) -> None:
    for name, component in world.components.items():
        for num_calls in (1, 2, 7, 1000) if component.family in make().families else ():
            phases = make().phases(default=component.site, blocks=component.blocks, num_calls=num_calls)
            firsts, where = [first for first, _ in phases], f"phases on {name}, {num_calls} calls"
            good = firsts[:1] == [0] and all(a < b < num_calls for a, b in pairwise([-1, *firsts]))
            hold(good, f"{where}: begin at {firsts}. Begin at call 0, and go up below {num_calls}.")
            for call in range(min(num_calls, 20)):
                sites = sites_at(phases, call)
                hold(
                    sites and len(set(sites)) == len(sites), f"{where}: {sites} at call {call}. Name sites, each once."
                )


@torch.no_grad()
def _recorded_and_reused(pair: Pair) -> None:
    model, schedule = pair.model, pair.schedule
    x_NCHW, options = pair.inputs()
    first = model.denoiser(x_NCHW, reuse={}, **options)
    told = f"{pair.name}: records {sorted(first.features)}, asked were {sorted(model.denoiser.sites)}"
    hold(set(first.features) == set(model.denoiser.sites), f"{told}. Record what `with_sites` names.")
    for call in range(schedule.num_calls):
        held = {site: first.features[site] for site in schedule.sites_at(call, default=())}
        kept = {site: feature.clone() for site, feature in held.items()}
        again = model.denoiser(x_NCHW, reuse=held, **options)
        same = torch.equal(again.eps_NCHW, first.eps_NCHW)
        hold(
            same,
            f"{pair.name}: fed back what call {call} recorded, the result differs. Reuse the map where it was cut.",
        )
        intact = not again.features and all(torch.equal(held[site], kept[site]) for site in held)
        hold(intact, f"{pair.name}: a cached call changes the maps it reuses. Later calls still need them: copy first.")


@torch.no_grad()
def _runs_less(pair: Pair) -> None:
    x_NCHW, options = pair.inputs()
    first = pair.model.denoiser(x_NCHW, reuse={}, **options)
    sites = pair.schedule.sites_at(1, default=())
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in pair.model.denoiser.network.backbone.named_modules()
    ]
    pair.model.denoiser(x_NCHW, reuse={}, **options)
    full, ran[:] = set(ran), []
    other = pair.model.denoiser(x_NCHW, reuse={site: first.features[site] + 1 for site in sites}, **options)
    for hook in hooks:
        hook.remove()
    hold(set(ran) < full, f"{pair.name}: a cached call runs every layer. Leave out what the reused map stands for.")
    depends = not torch.equal(other.eps_NCHW, first.eps_NCHW)
    hold(depends, f"{pair.name}: the result does not depend on the reused map. Feed it in where the full call has it.")


def _refreshing_every_call_is_plain(pair: Pair, plain: Pair) -> None:
    full = plain.latents(every_call(plain.schedule.num_calls))
    same = torch.equal(pair.latents(pair.every), full)
    hold(same, f"{pair.name}: refreshing at every call differs from the plain model. Record without changing anything.")
    hold(
        not torch.equal(pair.latents(pair.schedule), full), f"{pair.name}: caching changes nothing. Nothing was reused."
    )


def _alone_as_in_a_batch(pair: Pair) -> None:
    for predictor in FORECASTS:
        together = pair.latents(pair.schedule, predictor=predictor)
        alone = torch.cat([pair.latents(pair.schedule, (seed,), predictor) for seed in (0, 1, 2)])
        same = torch.allclose(together, alone, rtol=1e-3, atol=1e-4)  # kernels for other sizes round in another order
        hold(same, f"{pair.name}: an image alone differs from the same one in a batch. Mix nothing over the batch.")


def what_a_call_recorded_fed_back_is_the_call_itself(make: Make, world: World) -> None:
    for pair in of_strategy(make, world):
        _recorded_and_reused(pair)


def a_cached_call_runs_less_and_depends_on_what_it_reuses(make: Make, world: World) -> None:
    for pair in of_strategy(make, world):
        _runs_less(pair)


def refreshing_every_call_is_the_plain_model(make: Make, world: World) -> None:
    for pair in of_strategy(make, world):
        _refreshing_every_call_is_plain(pair, Pair.of(pair.name, world.models[pair.name], CutPoint()))


def an_image_alone_is_the_same_image_in_a_batch(make: Make, world: World) -> None:
    for pair in of_strategy(make, world):
        _alone_as_in_a_batch(pair)


STRATEGY = (
    names_a_family_of_models, phases_start_at_call_0_and_follow_each_other,
    what_a_call_recorded_fed_back_is_the_call_itself, a_cached_call_runs_less_and_depends_on_what_it_reuses,
    refreshing_every_call_is_the_plain_model, an_image_alone_is_the_same_image_in_a_batch,
)  # fmt: skip


def _cut(make: Make) -> Pair:
    component: ModelComponent = make()
    try:
        component.check()
    except ValueError as error:  # its message says where the weights go
        raise Untried(str(error)) from error
    return Pair.of(type(component).__name__, component.load(), CutPoint())


def it_loads_in_float32_and_says_what_it_takes(make: Make, world: World) -> None:
    pair = _cut(make)
    model, component = pair.model, pair.model.component
    kinds = {parameter.dtype for parameter in model.denoiser.network.backbone.parameters()}
    hold(kinds == {torch.float32}, f"weights are {kinds}. Load them as float32; compute.dtype converts.")
    hold(not model.denoiser.network.backbone.training, "is in training mode. Call eval() when it is loaded.")
    state = pair.latents(pair.every, (0,))
    told = f"latents of {tuple(state.shape[1:])}, latent_shape={component.latent_shape}. Let them agree."
    hold(tuple(state.shape[1:]) == tuple(component.latent_shape), told)
    drawn = tuple(model.decode(state).shape[1:])
    hold(drawn == tuple(component.image_shape), f"draws {drawn}, image_shape={component.image_shape}. Let them agree.")
    hold(component.weights_digest() == make().weights_digest(), "weights_digest changes. Digest what the files hold.")


def what_its_cut_recorded_fed_back_is_the_call_itself(make: Make, world: World) -> None:
    _recorded_and_reused(_cut(make))


def its_cached_call_runs_less_and_depends_on_what_it_reuses(make: Make, world: World) -> None:
    _runs_less(_cut(make))


def its_refreshing_every_call_is_the_plain_model(make: Make, world: World) -> None:
    _refreshing_every_call_is_plain(_cut(make), _cut(make))


def its_image_alone_is_the_same_image_in_a_batch(make: Make, world: World) -> None:
    _alone_as_in_a_batch(_cut(make))


MODEL = (
    it_loads_in_float32_and_says_what_it_takes, what_its_cut_recorded_fed_back_is_the_call_itself,
    its_cached_call_runs_less_and_depends_on_what_it_reuses, its_refreshing_every_call_is_the_plain_model,
    its_image_alone_is_the_same_image_in_a_batch,
)  # fmt: skip
