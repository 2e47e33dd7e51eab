"""The denoiser as a function of its arguments: guidance, reuse, and the call index that lasts one call."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.call import CallIndex
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.models.unet import UNetCut
from tests.tiny import tiny_conditional_unet

SITE = "up_blocks.2.resnets.2"
TIMESTEP = torch.tensor(500)


def denoiser(guidance: float | None) -> GuidedDenoiser:
    return GuidedDenoiser(
        network=UNetCut(tiny_conditional_unet()), sites=(SITE,), guidance=guidance, null_first=True,
        call_index=CallIndex(),
    )  # fmt: skip


def inputs(guidance: float | None) -> tuple[Tensor, Tensor]:
    """Two states, and conditions: both halves [null; conditional] where guided."""
    return torch.randn(2, 4, 8, 8), torch.randn(2 if guidance is None else 4, 1, 8)


def test_a_unet_denoiser_is_a_denoiser() -> None:
    assert isinstance(denoiser(None), Denoiser)
    assert denoiser(None).sites == (SITE,)


@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 1.5])
@torch.no_grad()
def test_feeding_back_the_features_of_the_same_call_is_bit_identical(guidance: float | None) -> None:
    model = denoiser(guidance)
    x, cond = inputs(guidance)
    first = model(x, call=0, timestep=TIMESTEP, cond=cond, reuse={})
    again = model(x, call=0, timestep=TIMESTEP, cond=cond, reuse=first.features)
    assert torch.equal(again.eps_NCHW, first.eps_NCHW)
    assert list(first.features) == [SITE]
    assert not again.features


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
@torch.no_grad()
def test_guidance_mixes_both_halves_of_one_doubled_batch(guidance: float) -> None:
    model = denoiser(guidance)
    x, cond = inputs(guidance)
    out = model(x, call=0, timestep=TIMESTEP, cond=cond, reuse={})
    doubled = model.network.backbone(torch.cat([x, x]), TIMESTEP, encoder_hidden_states=cond).sample
    null, conditional = doubled[:2], doubled[2:]
    assert torch.equal(out.eps_NCHW, null + guidance * (conditional - null))
    assert out.features[SITE].shape == (4, 8, 8, 8)  # the maps of both halves


@torch.no_grad()
def test_without_guidance_the_prediction_is_the_networks() -> None:
    model = denoiser(None)
    x, cond = inputs(None)
    out = model(x, call=0, timestep=TIMESTEP, cond=cond, reuse={})
    assert torch.equal(out.eps_NCHW, model.network.backbone(x, TIMESTEP, encoder_hidden_states=cond).sample)


def test_an_unknown_site_is_refused() -> None:
    model = denoiser(None)
    x, cond = inputs(None)
    with pytest.raises(ValueError, match=r"reuse names \['mid_block'\].*sites are up_blocks\.2\.resnets\.2"):
        model(x, call=0, timestep=TIMESTEP, cond=cond, reuse={"mid_block": x})


@torch.no_grad()
def test_layers_see_the_call_they_run_in_and_none_is_left_behind() -> None:
    model = denoiser(None)
    x, cond = inputs(None)
    seen: list[int] = []
    model.network.backbone.conv_out.register_forward_hook(lambda *_: seen.append(model.call_index.value))
    features = model(x, call=3, timestep=TIMESTEP, cond=cond, reuse={}).features
    model(x, call=4, timestep=TIMESTEP, cond=cond, reuse=features)
    assert seen == [3, 4]
    with pytest.raises(RuntimeError, match="no denoiser call is running"):
        _ = model.call_index.value


@torch.no_grad()
def test_a_call_that_fails_leaves_no_call_index_and_no_hook() -> None:
    model = denoiser(None)
    x, _ = inputs(None)
    with pytest.raises(RuntimeError):
        model(x, call=0, timestep=TIMESTEP, cond=torch.randn(2, 1, 5), reuse={})  # context of the wrong width
    assert not model.network.backbone.get_submodule(SITE)._forward_pre_hooks
    with pytest.raises(RuntimeError, match="no denoiser call is running"):
        _ = model.call_index.value


def test_another_network_takes_over_guidance_and_has_a_call_index_of_its_own() -> None:
    model = denoiser(1.5)
    network = UNetCut(tiny_conditional_unet())
    twin = model.with_network(network)
    assert (twin.network, twin.guidance, twin.sites) == (network, 1.5, model.sites)
    assert twin.call_index is not model.call_index


def test_call_indices_nest_and_are_restored() -> None:
    index = CallIndex()
    with index.at(1):
        with index.at(5):
            assert index.value == 5
        assert index.value == 1
        with pytest.raises(KeyError), index.at(7):
            raise KeyError
        assert index.value == 1
    with pytest.raises(RuntimeError, match="no denoiser call is running"):
        _ = index.value


def test_two_call_indices_do_not_see_each_other() -> None:
    first, second = CallIndex(), CallIndex()
    with first.at(0), pytest.raises(RuntimeError, match="no denoiser call is running"):
        _ = second.value


@torch.no_grad()
def test_the_null_half_may_come_last() -> None:
    model = denoiser(1.5)
    x, cond = inputs(1.5)
    last = replace(model, null_first=False)
    swapped = last(x, call=0, timestep=TIMESTEP, cond=torch.cat([cond[2:], cond[:2]]), reuse={})
    plain = model(x, call=0, timestep=TIMESTEP, cond=cond, reuse={})
    assert_close(swapped.eps_NCHW, plain.eps_NCHW, rtol=1e-5, atol=1e-6)  # kernels round by place in the batch
