"""Counted cost against PyTorch's own flop counter and against sums done by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cq.core.artifacts import CacheSchedule
from cq.evaluate.efficiency import call_macs, counted_cost, counting
from cq.models.unet import UNetCut
from cq.quantize.policy import layer_policies
from tests.tiny import tiny_church_unet, tiny_conditional_unet, tiny_pixel_unet

NETWORKS: dict[str, Any] = {
    "conditional": (tiny_conditional_unet, "up_blocks.2.resnets.2", (4, 8, 8), torch.zeros(1, 3, 8)),
    "pixel": (tiny_pixel_unet, "up_blocks.3.resnets.1", (3, 16, 16), None),
    "church": (tiny_church_unet, "up_blocks.1.resnets.1", (4, 8, 8), None),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str = "conditional") -> tuple[UNetCut, tuple[int, ...], Tensor | None]:
    make, _, shape, context = NETWORKS[name]
    return UNetCut(make()), shape, context


def sites_of(name: str = "conditional") -> tuple[str, ...]:
    return (NETWORKS[name][1],)


def schedule(*calls: int, num_calls: int = 10) -> CacheSchedule:
    return CacheSchedule(num_calls=num_calls, refresh_calls=calls, planner="test", interval=None)


def coverage(cut: UNetCut, bits: int, *, edge_bits: int = 8, **options: Any) -> tuple[dict[str, Any], ...]:
    defaults: dict[str, Any] = {"softmax_bits": 8, "split": True, "attention": True, "exclude": ()}
    policies = layer_policies(cut, weight_bits=bits, act_bits=8, edge_bits=edge_bits, **(defaults | options))
    return tuple(policy.row() for policy in policies)


def counted(
    refresh: CacheSchedule, rows: tuple[dict[str, Any], ...] = (), name: str = "conditional"
) -> dict[str, float]:
    cut, shape, context = network(name)
    return counted_cost(cut, latent_shape=shape, cond=context, schedule=refresh, sites=sites_of(name), coverage=rows)


@every_network
@torch.no_grad()
def test_macs_of_full_and_cached_calls_are_half_of_pytorchs_flops(name: str) -> None:
    """PyTorch counts convolutions, matrix products and attention, two operations a multiply-accumulate: nothing else
    is counted there or here. Its counter does not know the fused attention of CPUs, hence the plain one."""
    cut, shape, context = network(name)
    x, timestep = torch.zeros(1, *shape), torch.tensor(0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as full:
        _, cached = cut.full(x, timestep, context, record=sites_of(name))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as shallow:
        cut.shallow(x, timestep, context, reuse=cached)
    macs_full, macs_shallow = call_macs(cut, latent_shape=shape, cond=context, sites=sites_of(name))
    assert 2 * sum(macs_full.values()) == full.get_total_flops()
    assert 2 * sum(macs_shallow.values()) == shallow.get_total_flops()
    assert 0 < sum(macs_shallow.values()) < sum(macs_full.values())


@every_network
def test_a_cached_call_counts_the_layers_it_runs_as_a_full_call_does(name: str) -> None:
    cut, shape, context = network(name)
    full, shallow = call_macs(cut, latent_shape=shape, cond=context, sites=sites_of(name))
    assert shallow.keys() < full.keys()
    assert all(full[layer] == count for layer, count in shallow.items())


def test_a_convolution_a_linear_and_an_attention_by_hand() -> None:
    cut, shape, context = network()
    full, _ = call_macs(cut, latent_shape=shape, cond=context, sites=sites_of())
    assert full["conv_in"] == 8 * 8 * 8 * 4 * 9  # 8 x 8 pixels, 4 to 8 channels, 3 x 3
    assert full["time_embedding.linear_1"] == 8 * 32
    attention = "down_blocks.2.attentions.0.transformer_blocks.0"
    assert full[f"{attention}.attn1"] == 2 * 4 * 4 * 24  # q k and p v: 4 queries, 4 keys, 24 channels
    assert full[f"{attention}.attn2"] == 2 * 4 * 3 * 24  # 3 tokens of context


def test_strided_and_grouped_convolutions_by_hand() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(6 * 16, 5))
    with counting(layers) as macs:
        layers(torch.zeros(2, 4, 8, 8))
    assert macs == {"0": 2 * 16 * 6 * 2 * 9, "2": 2 * 5 * 96}
    assert not [layer for layer in layers if layer._forward_hooks]


def test_counting_leaves_no_hook_even_after_a_failure() -> None:
    cut, _, _ = network()
    with pytest.raises(KeyError), counting(cut.backbone):
        raise KeyError
    assert not [module for module in cut.modules() if module._forward_hooks]


@every_network
def test_in_full_precision_every_mac_is_32_by_32_bits(name: str) -> None:
    cost = counted(schedule(0, 5), name=name)
    assert cost["bops_mean"] == pytest.approx(cost["macs_mean"] * 1024, rel=1e-12)  # the order of a sum
    assert cost["compression"] == 1.0
    cut, _, _ = network(name)
    assert cost["weight_bytes"] == 4 * sum(parameter.numel() for parameter in cut.backbone.parameters())


def test_the_mean_over_a_schedule_by_hand() -> None:
    cost = counted(schedule(0, 4, 7))
    assert (cost["num_calls"], cost["num_refreshes"]) == (10, 3)
    expected = (3 * cost["macs_full"] + 7 * cost["macs_cached"]) / 10
    assert cost["macs_mean"] == pytest.approx(expected, rel=1e-12)  # the order of a sum
    assert counted(schedule(*range(10)))["macs_mean"] == cost["macs_full"]


def test_eight_bits_cost_a_sixteenth_and_shrink_all_but_norms_and_biases_to_a_quarter() -> None:
    cut, _, _ = network()
    rows = coverage(cut, 8)
    plain, quantized = counted(schedule(0, 5)), counted(schedule(0, 5), rows)
    assert quantized["bops_mean"] == pytest.approx(plain["bops_mean"] / 16, rel=1e-12)
    weights = sum(
        cut.backbone.get_parameter(f"{row['name']}.weight").numel() for row in rows if row["kind"] != "attention"
    )
    everything = sum(parameter.numel() for parameter in cut.backbone.parameters())
    assert quantized["weight_bytes"] == weights + 4 * (everything - weights)
    assert 3.5 < quantized["compression"] < 4.0
    assert quantized["macs_mean"] == plain["macs_mean"]


def test_bit_operations_by_hand_with_edges_attention_and_exclusions() -> None:
    cut, shape, context = network()
    rows = coverage(cut, 4, softmax_bits=6, exclude=("time_embedding.*",))
    full, shallow = call_macs(cut, latent_shape=shape, cond=context, sites=sites_of())

    def width(layer: str) -> float:
        if layer.endswith((".attn1", ".attn2")):
            return (8 * 8 + 6 * 8) / 2  # half the products are q k, half softmax times v
        if layer.startswith("time_embedding."):
            return 1024
        return 8 * 8 if layer in ("conv_in", "conv_out") else 4 * 8

    by_hand = sum(2 * count * width(layer) for layer, count in full.items())
    by_hand += sum(8 * count * width(layer) for layer, count in shallow.items())
    assert counted(schedule(0, 5), rows)["bops_mean"] == pytest.approx(by_hand / 10, rel=1e-12)


def test_products_in_bfloat16_count_sixteen_bits_each() -> None:
    cut, shape, context = network()
    full, shallow = call_macs(cut, latent_shape=shape, cond=context, sites=sites_of())
    found, without = (
        counted(schedule(0, 5), coverage(cut, 8, attention=attention))["bops_mean"] for attention in ("bfloat16", False)
    )
    attentions = [2 * full[name] + 8 * shallow.get(name, 0) for name in full if name.endswith((".attn1", ".attn2"))]
    assert without - found == pytest.approx(sum(attentions) / 10 * (32 * 32 - 16 * 16), rel=1e-12)


def test_layers_that_are_not_quantized_cost_what_they_did() -> None:
    cut, _, _ = network()
    rows = coverage(cut, 8, attention=False, exclude=("*",))
    plain, excluded = counted(schedule(0, 5)), counted(schedule(0, 5), rows)
    assert excluded == pytest.approx(plain, rel=1e-12)
