"""Quantized layers: split against whole, the folded form against what runs, corrections against their definition."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cq.core.call import CallIndex
from cq.core.contracts import Corrector
from cq.core.moments import PairMoments
from cq.correct.channel_affine import ChannelAffineFit
from cq.correct.release import ReleaseAffine
from cq.quantize.affine import choose_qparams, quantize
from cq.quantize.layers import ActQuantizer, QuantLayer, QuantWeight, choose_weight_qparams, halves
from cq.quantize.observers import MinMax

CALLS = 3
SPLIT = 6


def sums_in_another_order(actual: Tensor, expected: Tensor) -> None:
    """float32 sums over some 100 products of size 1, added in another order."""
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def conv(*, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(10, 4, 3, stride=2, padding=1, bias=bias)


def linear(*, bias: bool = True) -> nn.Linear:
    return nn.Linear(10, 4, bias=bias)


LAYERS = {"conv": conv, "linear": linear}


def inputs(layer: nn.Conv2d | nn.Linear, *, samples: int = 3) -> Tensor:
    return torch.randn(samples, 10, 7, 7) if isinstance(layer, nn.Conv2d) else torch.randn(samples, 10)


def act_quantizer(
    index: CallIndex, *, bits: int = 8, per_call: bool = False, low: float = -3.0, high: float = 3.0
) -> ActQuantizer:
    scale, zero_point = choose_qparams(torch.tensor([low]), torch.tensor([high]), bits)
    rows = CALLS if per_call else 1
    tensors = {"a/scale": scale.expand(rows), "a/zero_point": zero_point.expand(rows)}
    return ActQuantizer.stored(bits, tensors, "a", call_index=index)


def quant_layer(
    layer: nn.Conv2d | nn.Linear, index: CallIndex, *, split: int, bits: int = 8, low: tuple[float, ...] = (-3.0, -3.0)
) -> QuantLayer:
    weights = [
        QuantWeight(part.detach(), bits, scale=scale, zero_point=zero_point)
        for part in halves(layer.weight, split)
        for scale, zero_point in [choose_weight_qparams(part, bits, MinMax())]
    ]
    quantizers = [act_quantizer(index, bits=bits, low=low[i]) for i in range(len(weights))]
    return QuantLayer(layer, split=split, weights=weights, quantizers=quantizers, call_index=index)


def product(layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return nn.functional.conv2d(x, weight, None, layer.stride, padding=1)
    return nn.functional.linear(x, weight)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_split_equals_whole_where_both_halves_share_their_quantizers(make: Any) -> None:
    layer, index = make(), CallIndex()
    scale, zero_point = choose_weight_qparams(layer.weight, 8, MinMax())
    quantizer = act_quantizer(index)

    def quantized(split: int) -> QuantLayer:
        weights = [QuantWeight(w, 8, scale=scale, zero_point=zero_point) for w in halves(layer.weight, split)]
        return QuantLayer(layer, split=split, weights=weights, quantizers=[quantizer] * len(weights), call_index=index)

    x = inputs(layer)
    sums_in_another_order(quantized(SPLIT)(x), quantized(0)(x))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_sixteen_bits_are_close_to_the_layer_itself(make: Any) -> None:
    layer = make()
    x = inputs(layer).clamp(-3, 3)
    # half a scale (3/65535) of error in each of some 100 products, mostly cancelling
    assert_close(quant_layer(layer, CallIndex(), split=SPLIT, bits=16)(x), layer(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_an_integer_kernel_with_the_folded_parameters_computes_the_same(make: Any, bias: bool) -> None:
    """Two integer products, one epilogue each: what a deployed kernel would execute, with the corrections inside."""
    layer, index = make(bias=bias), CallIndex()
    quantized = quant_layer(layer, index, split=SPLIT, low=(-3.0, -1.0))
    quantized.correction = torch.stack([torch.rand(CALLS, 4) + 0.5, torch.randn(CALLS, 4)], dim=1)
    x = inputs(layer)
    parts = x[:, :SPLIT], x[:, SPLIT:]
    channels = (1, -1, 1, 1) if quantized.convolution else (1, -1)
    for call in range(CALLS):
        first, second, total_bias = quantized.folded(call)
        outs = []
        for part, weight, weights, scale_C, low in zip(
            parts, halves(layer.weight, SPLIT), quantized.weights, (first, second), (-3.0, -1.0), strict=True
        ):
            assert isinstance(weights, QuantWeight)
            assert scale_C is not None
            scale, zero_point = choose_qparams(torch.tensor(low), torch.tensor(3.0), 8)
            rows = (-1,) + (1,) * (weight.ndim - 1)
            codes_x = quantize(part, scale, zero_point, 8) - zero_point
            codes_w = quantize(weight, weights.scale.view(rows), weights.zero_point.view(rows), 8)
            sums = product(layer, codes_x.double(), (codes_w - weights.zero_point.view(rows)).double())  # exact
            outs.append(sums * (scale.double() * scale_C.double()).view(channels))
        out = outs[0] + outs[1]
        if total_bias is not None:
            out = out + total_bias.double().view(channels)
        with index.at(call):
            assert_close(quantized(x).double(), out, rtol=1e-5, atol=1e-5 * float(out.abs().max()))  # float32 sums


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_a_correction_acts_on_the_cached_half_alone_and_before_the_bias(make: Any) -> None:
    layer, index = make(), CallIndex()
    quantized = quant_layer(layer, index, split=SPLIT)
    x = inputs(layer)
    cached = quantized.corrected(x[:, :SPLIT])
    rest = quantized(x) - cached
    quantized.correction = torch.stack([torch.rand(CALLS, 4) + 0.5, torch.randn(CALLS, 4)], dim=1)
    shape = (1, -1) + (1,) * (cached.ndim - 2)
    for call in range(CALLS):
        gain, offset = quantized.correction[call]
        with index.at(call):
            sums_in_another_order(quantized(x), gain.view(shape) * cached + offset.view(shape) + rest)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_gain_one_and_offset_zero_are_bit_identical_to_no_correction(make: Any) -> None:
    layer, index = make(), CallIndex()
    quantized = quant_layer(layer, index, split=SPLIT)
    x = inputs(layer)
    plain = quantized(x)
    quantized.correction = torch.stack([torch.ones(CALLS, 4), torch.zeros(CALLS, 4)], dim=1)
    with index.at(1):
        assert torch.equal(quantized(x), plain)


def conv_with_bias(size: float) -> nn.Conv2d:
    layer = conv()
    assert layer.bias is not None
    nn.init.normal_(layer.bias, std=size)
    return layer


def error_of_the_corrected_layer(layer: nn.Conv2d, corrector: Corrector) -> tuple[Tensor, Tensor]:
    """Mean error per out-channel over the fitting set of a 4-bit layer whose cached half is corrected; its gain.

    The error is what the cached half adds: the skip half and the bias are the same on both sides.
    """
    index, x = CallIndex(), inputs(layer)
    quantized = quant_layer(layer, index, split=SPLIT, bits=4)
    target = product(layer, x[:, :SPLIT], layer.weight[:, :SPLIT])
    source = quantized.corrected(x[:, :SPLIT])
    skip = quantized(x) - source
    moments = PairMoments.of(source, target)
    fitted = corrector.fit(moments, bias_C=layer.bias)
    assert fitted is not None
    quantized.correction = torch.stack([table.float() for table in fitted], dim=1)
    with index.at(0):
        error = quantized(x) - (target + skip)
    return error.double().mean((0, 2, 3)), fitted[0][0]


@pytest.mark.parametrize("size", [1.0, 50.0])
@torch.no_grad()
def test_the_corrected_layer_has_no_mean_error_over_its_fitting_set_however_large_the_bias(size: float) -> None:
    layer = conv_with_bias(size)
    error, _ = error_of_the_corrected_layer(layer, ChannelAffineFit(min_variance=1e-10))
    assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-6 * size)  # float32 rounding at the bias's size


@torch.no_grad()
def test_the_releases_correction_is_off_by_one_minus_gain_times_bias() -> None:
    layer = conv_with_bias(50.0)
    error, gain = error_of_the_corrected_layer(layer, ReleaseAffine())
    assert layer.bias is not None
    expected = (1 - gain) * layer.bias.double()
    assert expected.abs().max() > 0.1
    assert_close(error, expected, rtol=0, atol=5e-5)  # as above


@torch.no_grad()
def test_a_channel_of_zero_weights_and_a_constant_input_stay_finite() -> None:
    layer = conv()
    layer.weight[1] = 0.0
    quantized = quant_layer(layer, CallIndex(), split=SPLIT)
    assert quantized(torch.zeros(1, 10, 7, 7)).isfinite().all()
    assert quantized(inputs(layer)).isfinite().all()


def test_a_layer_that_does_not_pad_with_zeros_is_refused() -> None:
    layer = nn.Conv2d(10, 4, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="pad with zeros only"):
        quant_layer(layer, CallIndex(), split=0)


def observing(index: CallIndex, *, per_call: bool) -> ActQuantizer:
    return ActQuantizer(8, observer=MinMax(), call_index=index, num_calls=CALLS, per_call=per_call)


def calibrated(index: CallIndex, *, per_call: bool) -> ActQuantizer:
    """Two batches a call, whose larger range is 1 at call 0 and 4 at call 2; the layer is skipped at call 1."""
    quantizer = observing(index, per_call=per_call)
    for call, batches in enumerate([(0.5, 1.0), (), (4.0, 2.0)]):
        for high in batches:
            x = torch.linspace(-high, high, 11)
            assert quantizer(x) is x  # calibration sees full precision
        quantizer.close(call)
    quantizer.finish()
    return quantizer


def test_scales_per_call_cover_all_batches_of_their_call_and_fill_gaps_with_the_row_before() -> None:
    scale = calibrated(CallIndex(), per_call=True).write("a")["a/scale"]
    assert_close(scale, torch.tensor([2.0, 2.0, 8.0]) / 255, rtol=1e-6, atol=0)  # one rounding of the scale


def test_a_shared_scale_covers_all_calls() -> None:
    index = CallIndex()
    quantizer = calibrated(index, per_call=False)
    assert_close(quantizer.write("a")["a/scale"], torch.tensor([8.0 / 255]), rtol=1e-6, atol=0)
    assert quantizer(torch.tensor([9.0])) < 4.1  # no call is needed to look it up


def test_an_activation_quantizer_reads_the_row_of_the_running_call() -> None:
    index = CallIndex()
    quantizer = calibrated(index, per_call=True)
    for call, high in enumerate([1.0, 1.0, 4.0]):
        with index.at(call):
            # zero lies on the grid, so its ends are up to half a scale from the range's
            assert_close(quantizer(torch.tensor([100.0])), torch.tensor([high]), rtol=0.5 / 127, atol=0)
    with pytest.raises(RuntimeError, match="no denoiser call is running"):
        quantizer(torch.tensor([100.0]))


def test_written_parameters_read_back_give_bit_identical_outputs() -> None:
    index = CallIndex()
    quantizer = calibrated(index, per_call=True)
    other = ActQuantizer.stored(8, quantizer.write("a"), "a", call_index=index)
    x = torch.randn(1000)
    for call in range(CALLS):
        with index.at(call):
            assert torch.equal(other(x), quantizer(x))
