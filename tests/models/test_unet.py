"""The cut U-Net: full calls are diffusers' own, shallow calls reproduce them from the same call's map."""

from typing import Any

import pytest
import torch

from cq.models.sites import Cut
from cq.models.unet import UNetCut, main_channels
from tests.tiny import tiny_church_unet, tiny_conditional_unet, tiny_pixel_unet

UNETS = {"conditional": tiny_conditional_unet, "pixel": tiny_pixel_unet, "church": tiny_church_unet}
SITES = [(name, site) for name, make in UNETS.items() for site in main_channels(make())]


def _inputs(unet: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    size = unet.config.sample_size
    context = torch.randn(2, 1, 8) if hasattr(unet, "encoder_hid_proj") else None
    return torch.randn(2, unet.config.in_channels, size, size), torch.tensor(500), context


@pytest.mark.parametrize(("name", "site"), SITES)
@torch.no_grad()
def test_feeding_back_the_map_of_the_same_call_is_bit_identical_at_every_cut(name: str, site: str) -> None:
    cut = UNetCut(UNETS[name]())
    x, timestep, context = _inputs(cut.backbone)
    eps, cached = cut.full(x, timestep, context, record=(site,))
    assert torch.equal(cut.shallow(x, timestep, context, reuse=cached), eps)


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_a_full_call_is_diffusers_forward_bit_for_bit_and_leaves_no_hook(name: str) -> None:
    unet: Any = UNETS[name]()
    x, timestep, context = _inputs(unet)
    extra = {} if context is None else {"encoder_hidden_states": context}
    plain = unet(x, timestep, **extra).sample
    cut, site = UNetCut(unet), list(main_channels(unet))[-1]
    assert torch.equal(cut.full(x, timestep, context, record=(site,))[0], plain)
    assert not cut.backbone.get_submodule(site)._forward_pre_hooks


@torch.no_grad()
def test_a_shallow_call_depends_on_the_cached_map_and_skips_the_deep_layers() -> None:
    cut, site = UNetCut(tiny_conditional_unet()), "up_blocks.2.resnets.2"
    x, timestep, context = _inputs(cut.backbone)
    eps, cached = cut.full(x, timestep, context, record=(site,))
    ran: list[str] = []
    for name, module in cut.backbone.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    assert not torch.equal(cut.shallow(x, timestep, context, reuse={site: cached[site] + 1}), eps)
    assert not [name for name in ran if name.startswith(("down_blocks", "mid_block", "up_blocks.0", "up_blocks.1"))]


def test_an_unknown_cut_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"up_blocks\.2\.resnets\.2.*Choose from those"):
        UNetCut(tiny_conditional_unet()).check((Cut(block=5, resnet=0).site,))
    with pytest.raises(ValueError, match=r"up_blocks\.I\.resnets\.J"):
        Cut.parse("mid_block")


@torch.no_grad()
def test_one_full_call_records_several_cuts_and_a_shallow_call_starts_from_one() -> None:
    cut = UNetCut(tiny_conditional_unet())
    sites = ("up_blocks.1.resnets.0", "up_blocks.2.resnets.2")
    x, timestep, context = _inputs(cut.backbone)
    eps, cached = cut.full(x, timestep, context, record=sites)
    for site in sites:
        assert torch.equal(cut.shallow(x, timestep, context, reuse={site: cached[site]}), eps)
    with pytest.raises(ValueError, match="one site a call"):
        cut.shallow(x, timestep, context, reuse=cached)
