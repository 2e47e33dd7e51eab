"""The laws of cache strategies, for every yaml of the group on every tiny model of the families it names."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.core.contracts import CacheStrategy
from cq.core.phases import Phases, all_sites, sites_at
from tests.choices import built, names
from tests.families import KIND, WRITERS, component

CALLS = 7
CASES = [
    (name, family) for name in names("cache") for family in WRITERS if KIND[family] in built("cache", name).families
]
every_case = pytest.mark.parametrize(("name", "family"), CASES)


def phases_of(name: str, family: str, folders: dict[str, Path], num_calls: int = CALLS) -> Phases:
    strategy: CacheStrategy = built("cache", name)
    assert isinstance(strategy, CacheStrategy)
    model = component(family, folders[family])
    return strategy.phases(default=model.site, blocks=model.blocks, num_calls=num_calls)


def test_every_strategy_works_on_some_family_and_every_family_has_one() -> None:
    assert {name for name, _ in CASES} == set(names("cache"))
    assert {family for _, family in CASES} == set(WRITERS)


@every_case
@pytest.mark.parametrize("num_calls", [1, 2, CALLS, 1000])
def test_phases_start_at_call_0_and_follow_each_other_within_the_trajectory(
    name: str, family: str, num_calls: int, folders: dict[str, Path]
) -> None:
    phases = phases_of(name, family, folders, num_calls)
    firsts = [first for first, _ in phases]
    assert firsts[0] == 0
    assert all(a < b < num_calls for a, b in pairwise([-1, *firsts]))
    for call in range(min(num_calls, 20)):
        sites = sites_at(phases, call)
        assert sites
        assert len(set(sites)) == len(sites)


@every_case
@torch.no_grad()
def test_every_phase_can_be_recorded_and_reused_on_a_model_of_the_family(
    name: str, family: str, folders: dict[str, Path]
) -> None:
    phases = phases_of(name, family, folders)
    model = component(family, folders[family]).load()
    denoiser = model.denoiser.with_sites(all_sites(phases))
    x = torch.randn(2, *model.component.latent_shape)
    cond = model.condition(torch.tensor([0, 1]))
    options: dict[str, Any] = {"timestep": torch.tensor(400), "cond": cond}
    full = denoiser(x, call=0, reuse={}, **options)
    assert set(full.features) == set(all_sites(phases))
    ran: list[str] = []
    for layer, module in denoiser.network.backbone.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    denoiser(x, call=0, reuse={}, **options)
    everything, ran[:] = set(ran), []
    for _, sites in phases:
        held: dict[str, Tensor] = {site: full.features[site] for site in sites}
        kept = {site: feature.clone() for site, feature in held.items()}
        out = denoiser(x, call=1, reuse=held, **options)
        assert torch.equal(out.eps_NCHW, full.eps_NCHW)
        assert out.features == {}
        assert all(torch.equal(held[site], kept[site]) for site in sites)  # later calls still need them
        assert set(ran) < everything  # something was saved
        ran.clear()
