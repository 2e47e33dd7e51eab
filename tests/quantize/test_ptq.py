"""Post-training quantization of the whole tiny U-Net."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.core.artifacts import ChannelAffine, QuantParams
from cq.quantize.affine import choose_qparams
from cq.quantize.attention import QuantAttention
from cq.quantize.layers import QuantLayer, QuantWeight
from cq.quantize.none import FullPrecision
from cq.quantize.observers import ErrorSearch
from cq.quantize.twin import entry_layers, fake_quantized
from tests.quantize.trajectories import CACHED, CALLS, PTQ_8, PTQ_16, UNUSED, TinyRuns, identity_card

ENTRY = "up_blocks.2.resnets.2"


def test_calibration_and_quantization_leave_the_denoiser_untouched(runs: TinyRuns) -> None:
    denoiser = runs.model.denoiser
    before, outputs = identity_card(denoiser.network), runs.latents(denoiser)
    weights = {name: tensor.clone() for name, tensor in denoiser.network.backbone.state_dict().items()}
    twin = runs.twin(runs.calibrated(PTQ_8))
    runs.latents(twin)
    assert identity_card(denoiser.network) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in denoiser.network.backbone.state_dict().items())
    assert torch.equal(runs.latents(denoiser), outputs)


def test_a_twin_has_a_call_index_and_weights_of_its_own(runs: TinyRuns, params: QuantParams) -> None:
    denoiser, twin = runs.model.denoiser, runs.twin(params)
    assert twin.call_index is not denoiser.call_index
    mine = {tensor.data_ptr() for tensor in denoiser.network.backbone.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in twin.network.backbone.state_dict().values() if tensor.numel()}


def test_saved_and_loaded_parameters_give_bit_identical_outputs(
    runs: TinyRuns, params: QuantParams, tmp_path: Path
) -> None:
    params.save(tmp_path)
    loaded = QuantParams.load(tmp_path)
    assert torch.equal(runs.latents(runs.twin(loaded)), runs.latents(runs.twin(params)))


def test_scales_do_not_depend_on_how_the_samples_are_batched(runs: TinyRuns, params: QuantParams) -> None:
    other = replace(runs, seeds=((2, 3), (0, 1))).calibrated(PTQ_8)
    assert other.digest == params.digest
    whole = replace(runs, seeds=((0, 1, 2, 3),)).calibrated(PTQ_8)
    for name, scale in params.tensors.items():
        if name.endswith("/scale"):
            # another batch size may take other float32 kernels: a few ulp in the extremes
            assert_close(whole.tensors[name], scale, rtol=1e-4, atol=1e-9)


def test_a_scale_per_call_or_one_shared_by_all(runs: TinyRuns, params: QuantParams) -> None:
    shared = runs.calibrated(replace(PTQ_8, per_call=False))
    for name in params.tensors:
        if name.endswith("/scale") and ".weight" not in name:
            assert params.tensors[name].shape == (CALLS,)
            assert shared.tensors[name].shape == (1,)
            # min-max of all calls covers min-max of each; at most one rounding less
            assert (shared.tensors[name] >= params.tensors[name] * (1 - 1e-6)).all()
    assert runs.latents(runs.twin(shared)).isfinite().all()


def test_layers_below_the_cut_keep_the_scale_of_the_refresh_before(runs: TinyRuns, params: QuantParams) -> None:
    deep = params.tensors["mid_block.resnets.0.conv1.input0/scale"]
    assert deep[0] == deep[1] != deep[2] == deep[3]  # refreshes at 0 and 2
    assert len(set(params.tensors[f"{ENTRY}.conv2.input0/scale"].tolist())) == CALLS


def test_activation_scales_are_the_ranges_of_the_chosen_trajectory(runs: TinyRuns) -> None:
    """Entry layer, cached half: on the deployed path it reads the held, corrected map; on the full one its own."""
    table = torch.tensor([[[2.0] * 8, [0.5] * 8]]).expand(CALLS, 2, 8)
    deployed = replace(runs, correction=ChannelAffine(schedule=CACHED.identity, tables={ENTRY: table}, r2={}))
    for quantizer in (replace(PTQ_8, trajectory="deployed"), replace(PTQ_8, trajectory="full")):
        is_deployed = quantizer.trajectory == "deployed"
        found = deployed.calibrated(quantizer).tensors[f"{ENTRY}.conv_shortcut.input0/scale"]
        seen = [(torch.inf, -torch.inf)] * CALLS
        held: dict[int, Tensor] = {}
        steps = [deployed.steps(runs.model.denoiser, seeds, deployed=is_deployed) for seeds in deployed.seeds]
        for batch, loop in enumerate(steps):
            for step in loop:
                if step.output.features:
                    read = held[batch] = step.output.features[ENTRY]
                else:
                    read = deployed.correction.apply(held[batch], name=ENTRY, call=step.call)
                low, high = seen[step.call]
                seen[step.call] = (min(low, float(read.min())), max(high, float(read.max())))
        lows, highs = torch.tensor(seen).T
        # calibration computes attention as two products, which rounds differently
        assert_close(found, choose_qparams(lows, highs, 8)[0], rtol=1e-4, atol=0)


def test_coverage_lists_every_layer_and_attention_once_with_a_reason_where_it_is_not_quantized(runs: TinyRuns) -> None:
    unet = runs.model.denoiser.network.backbone
    quantizer = replace(PTQ_8, attention=False, exclude=("time_embedding.*", "*.conv_shortcut"))
    coverage = runs.calibrated(quantizer).coverage
    names = [row["name"] for row in coverage]
    assert len(set(names)) == len(names)
    layers = {name for name, module in unet.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    attentions = {name for name, module in unet.named_modules() if hasattr(module, "to_q")}
    assert set(names) == layers | attentions
    for row in coverage:
        name = row["name"]
        expected = ""
        if name in attentions:
            expected = "quantize.attention=false"
        elif name.startswith("time_embedding."):
            expected = "excluded by quantize.exclude='time_embedding.*'"
        elif name.endswith(".conv_shortcut"):
            expected = "excluded by quantize.exclude='*.conv_shortcut'"
        assert row["reason"] == expected
        assert (row["weight_bits"], row["act_bits"]) == ((32, 32) if expected else (8, 8))


def test_what_is_quantized_is_what_the_coverage_says(runs: TinyRuns) -> None:
    quantizer = replace(PTQ_8, weight_bits=4, exclude=("mid_block.*",))
    params = runs.calibrated(quantizer)
    twin = runs.twin(params)
    plain = runs.model.denoiser.network.backbone
    for row in params.coverage:
        module = twin.network.backbone.get_submodule(row["name"])
        if row["kind"] == "attention":
            assert isinstance(module.processor, QuantAttention) == (not row["reason"])
        elif row["reason"]:
            assert torch.equal(module.weight, plain.get_submodule(row["name"]).weight)
        else:
            assert isinstance(module, QuantLayer)
            assert {weight.bits for weight in module.weights} == {row["weight_bits"]}
            assert row["weight_bits"] == (8 if row["name"] in ("conv_in", "conv_out") else 4)
            for weight in module.weights:
                assert isinstance(weight, QuantWeight)
                codes = weight.value.flatten(1) / weight.scale[:, None]
                assert (codes - codes.round()).abs().max() < 1e-3  # whole multiples of the scale
                assert all(len(set(channel.round().tolist())) <= 2 ** row["weight_bits"] for channel in codes)


def test_an_exclude_pattern_that_matches_nothing_is_refused(runs: TinyRuns) -> None:
    with pytest.raises(ValueError, match=r"up_block\.\*.*no layer has such a name"):
        runs.calibrated(replace(PTQ_8, exclude=("up_block.*",)))


@pytest.mark.parametrize("bits", [1, 17])
@pytest.mark.parametrize("key", ["weight_bits", "act_bits", "edge_bits", "softmax_bits"])
def test_impossible_widths_are_refused(key: str, bits: int) -> None:
    with pytest.raises(ValueError, match=rf"quantize\.{key}={bits}"):
        replace(PTQ_8, **cast(Any, {key: bits}))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def test_sixteen_bits_are_close_to_full_precision_and_fewer_bits_are_further_away(runs: TinyRuns) -> None:
    plain = runs.latents(runs.model.denoiser)[-1]
    errors = []
    for bits in (16, 8, 4):
        quantizer = replace(PTQ_16, weight_bits=bits, act_bits=bits, edge_bits=bits, softmax_bits=bits)
        errors.append(relative_error(runs.latents(runs.twin(runs.calibrated(quantizer)))[-1], plain))
    assert errors[0] < 1e-4  # some 200 layers with a rounding of 1e-5 each, most of it averaged out
    assert errors[0] < errors[1] < errors[2]


def test_error_search_calibrates_the_whole_network(runs: TinyRuns) -> None:
    search = ErrorSearch(power=2.4, candidates=8, step=0.1)
    quantizer = replace(PTQ_8, weight_observer=search, act_observer=search)
    twin = runs.twin(runs.calibrated(quantizer))
    assert relative_error(runs.latents(twin)[-1], runs.latents(runs.model.denoiser)[-1]) < 0.1


@pytest.mark.parametrize("per_call", [True, False])
def test_feeding_back_the_map_of_the_same_refresh_is_bit_identical_on_the_quantized_network(
    runs: TinyRuns, per_call: bool
) -> None:
    quantizer = replace(PTQ_8, per_call=per_call)
    twin = runs.twin(runs.calibrated(quantizer))
    x, cond = torch.randn(2, 4, 8, 8), runs.model.condition(torch.tensor([3, 4]))
    for call in CACHED.refresh_calls:
        timestep = runs.model.noise_scheduler(CALLS).timesteps[call]
        with torch.no_grad():
            first = twin(x, call=call, timestep=timestep, cond=cond, reuse={})
            again = twin(x, call=call, timestep=timestep, cond=cond, reuse=first.features)
        assert torch.equal(again.eps_NCHW, first.eps_NCHW)


def test_the_output_correction_reaches_the_entry_layers_only_and_gain_one_offset_zero_changes_nothing(
    runs: TinyRuns, params: QuantParams
) -> None:
    layers = entry_layers(runs.model.denoiser, params)
    assert layers == [f"{ENTRY}.conv1", f"{ENTRY}.conv_shortcut"]
    identity = torch.tensor([1.0, 0.0])[:, None].expand(CALLS, 2, 8)
    plain = runs.latents(runs.twin(params))
    same = runs.twin(params, ChannelAffine(schedule="", tables=dict.fromkeys(layers, identity), r2={}))
    assert torch.equal(runs.latents(same), plain)
    changed = runs.twin(params, ChannelAffine(schedule="", tables={layers[0]: identity + 0.1}, r2={}))
    assert not torch.equal(runs.latents(changed), plain)


def test_without_splitting_there_is_nothing_to_correct(runs: TinyRuns) -> None:
    quantizer = replace(PTQ_8, split=False)
    params = runs.calibrated(quantizer)
    assert entry_layers(runs.model.denoiser, params) == []
    excluded = runs.calibrated(replace(PTQ_8, exclude=(f"{ENTRY}.*",)))
    assert entry_layers(runs.model.denoiser, excluded) == []
    assert not [name for name in params.bits if name.endswith(("input1", "weight1"))]
    assert runs.latents(runs.twin(params)).isfinite().all()


def test_full_precision_returns_the_denoiser_itself(runs: TinyRuns) -> None:
    denoiser, quantizer = runs.model.denoiser, FullPrecision()
    params = quantizer.calibrate(denoiser, runs, num_calls=CALLS, shards=UNUSED)
    assert fake_quantized(denoiser, params) is denoiser
    assert entry_layers(denoiser, params) == []
