"""Moments at the entry layers, and why they are taken from the real norm's output."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.moments import PairMoments
from cq.correct.channel_affine import ChannelAffineFit
from cq.quantize.entry_moments import entry_moments
from cq.quantize.layers import ActQuantizer, QuantLayer
from tests.quantize.trajectories import CALLS, TinyRuns

ENTRY = "up_blocks.2.resnets.2"
LAYERS = [f"{ENTRY}.conv1", f"{ENTRY}.conv_shortcut"]


def norm_of_the_cached_channels_alone(norm: nn.GroupNorm, cached_NCHW: Tensor, groups: int) -> Tensor:
    """CacheQuant's shortcut: a norm of fewer groups and the first affine parameters, without the skip half."""
    channels = cached_NCHW.shape[1]
    assert norm.weight is not None
    assert norm.bias is not None
    return nn.functional.group_norm(cached_NCHW, groups, norm.weight[:channels], norm.bias[:channels], norm.eps)


@pytest.mark.parametrize(
    ("channels", "groups", "cached", "equal"),
    [(16, 4, 8, True), (24, 4, 12, True), (24, 4, 16, False), (384, 32, 256, False)],
    ids=["aligned", "aligned, three a group", "one group straddles", "DDPM CIFAR-10"],
)
@torch.no_grad()
def test_norming_the_cached_half_alone_is_right_only_where_no_group_straddles_the_concatenation(
    channels: int, groups: int, cached: int, equal: bool
) -> None:
    """With 12 channels a group, 256 of 384 is not a boundary: hence the real norm of the real input is taken here."""
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, channels, 4, 4)
    x[:, cached:] = 5 * x[:, cached:] + 1  # the skip half has another size
    per_group = channels // groups
    own_groups = cached // per_group if cached % per_group == 0 else 4
    alone = norm_of_the_cached_channels_alone(norm, x[:, :cached], own_groups)
    difference = float((alone - norm(x)[:, :cached]).abs().max())
    assert difference < 1e-5 if equal else difference > 0.1  # float32 rounding against another normalization


def gathered(runs: TinyRuns, params: QuantParams) -> dict[str, PairMoments]:
    twin = runs.twin(params)
    return entry_moments(runs.model.denoiser, twin, LAYERS, runs, num_calls=CALLS)


def test_moments_are_those_of_both_products_of_the_cached_half_of_the_layers_true_input(
    runs: TinyRuns, params: QuantParams
) -> None:
    denoiser, twin = runs.model.denoiser, runs.twin(params)
    moments = entry_moments(denoiser, twin, LAYERS, runs, num_calls=CALLS)
    seen: dict[tuple[str, int], list[Tensor]] = {}
    handles = []
    for name in LAYERS:

        def keep(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            seen.setdefault((name, denoiser.call_index.value), []).append(args[0])

        handles.append(denoiser.network.backbone.get_submodule(name).register_forward_pre_hook(keep))
    list(runs(denoiser, deployed=True))
    for handle in handles:
        handle.remove()
    for name in LAYERS:
        layer: Any = denoiser.network.backbone.get_submodule(name)
        quantized: Any = twin.network.backbone.get_submodule(name)
        half = nn.Conv2d(8, 8, layer.kernel_size, padding=layer.padding, bias=False)
        with torch.no_grad():
            half.weight.copy_(layer.weight[:, :8])
            for call in range(CALLS):
                cached = torch.cat(seen[name, call])[:, :8]
                with twin.call_index.at(call):
                    expected = PairMoments.of(quantized.corrected(cached), half(cached))
                assert float(moments[name].count[call]) == float(expected.count)
                for key in ("source_TC", "target_TC", "source_square_TC", "target_square_TC", "cross_TC"):
                    # other batch sizes may take other float32 kernels
                    assert_close(getattr(moments[name], key)[call], getattr(expected, key)[0], rtol=1e-5, atol=1e-3)


def test_the_mean_error_of_the_entry_layers_over_the_fitting_set_is_zero_after_correction(
    runs: TinyRuns, params: QuantParams
) -> None:
    moments = gathered(runs, params)
    tables: dict[str, Tensor] = {}
    for name in LAYERS:
        fitted = ChannelAffineFit(min_variance=1e-10).fit(moments[name], bias_C=None)
        assert fitted is not None
        tables[name] = torch.stack(fitted, dim=1).float()
    twin = runs.twin(params, ChannelAffine(schedule="", tables=tables, r2={}))
    corrected = entry_moments(runs.model.denoiser, twin, LAYERS, runs, num_calls=CALLS)
    for name in LAYERS:
        before, after = (m[name].target_TC - m[name].source_TC for m in (moments, corrected))
        assert before.abs().mean() > 1e-4 * corrected[name].count.mean()
        assert (after.abs() / corrected[name].count).max() < 1e-6  # float32 outputs of size 1


def test_a_failure_inside_a_call_leaves_no_hook_and_no_running_call(runs: TinyRuns, params: QuantParams) -> None:
    denoiser, twin = runs.model.denoiser, runs.twin(params)
    before = runs.latents(denoiser)
    broken: Any = twin.network.backbone.get_submodule(LAYERS[0])
    tensors = {"a/scale": torch.ones(2), "a/zero_point": torch.zeros(2)}  # two rows, four calls
    broken.quantizers[0] = ActQuantizer.stored(8, tensors, "a", call_index=twin.call_index)
    with pytest.raises(IndexError):
        entry_moments(denoiser, twin, LAYERS, runs, num_calls=CALLS)
    for network in (denoiser, twin):
        assert not [module for module in network.network.backbone.modules() if module._forward_pre_hooks]
        with pytest.raises(RuntimeError, match="no denoiser call is running"):
            _ = network.call_index.value
    assert torch.equal(runs.latents(denoiser), before)


def test_a_layer_that_is_skipped_at_some_calls_is_refused(runs: TinyRuns, params: QuantParams) -> None:
    deep = "up_blocks.0.resnets.0.conv1"
    twin = runs.twin(params)
    assert isinstance(twin.network.backbone.get_submodule(deep), QuantLayer)
    with pytest.raises(ValueError, match=r"never ran at calls \[1, 3\]"):
        entry_moments(runs.model.denoiser, twin, [deep], runs, num_calls=CALLS)
