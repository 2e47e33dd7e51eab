"""Quantized attention against diffusers' own processor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.testing import assert_close

from cq.core.call import CallIndex
from cq.quantize.attention import QuantAttention
from cq.quantize.layers import ActQuantizer
from cq.quantize.observers import MinMax
from cq.quantize.twin import OPERANDS

Inputs = dict[str, Tensor]


def spatial() -> tuple[Any, Inputs]:
    """As in UNet2DModel: maps in, group norm and residual inside, output rescaled."""
    attention = Attention(
        query_dim=12, heads=3, dim_head=4, norm_num_groups=4, residual_connection=True, bias=True,
        rescale_output_factor=2.0,
    )  # fmt: skip
    return attention, {"hidden_states": torch.randn(2, 12, 5, 5)}


def cross() -> tuple[Any, Inputs]:
    """As in a transformer block: tokens in, another sequence as context."""
    attention = Attention(query_dim=12, cross_attention_dim=6, heads=2, dim_head=8)
    return attention, {"hidden_states": torch.randn(2, 25, 12), "encoder_hidden_states": torch.randn(2, 3, 6)}


def to_one_token() -> tuple[Any, Inputs]:
    """A class label as context: the softmax is constant 1."""
    attention, inputs = cross()
    return attention, inputs | {"encoder_hidden_states": torch.randn(2, 1, 6)}


def unscaled() -> tuple[Any, Inputs]:
    return Attention(query_dim=12, heads=2, dim_head=4, scale_qk=False), {"hidden_states": torch.randn(2, 9, 12)}


KINDS: dict[str, Callable[[], tuple[Any, Inputs]]] = {
    "spatial": spatial, "cross": cross, "one token": to_one_token, "unscaled": unscaled,
}  # fmt: skip


def processor(bits: int) -> tuple[QuantAttention, dict[str, ActQuantizer]]:
    quantizers = {
        op: ActQuantizer(bits, observer=MinMax(), call_index=CallIndex(), num_calls=1, per_call=False)
        for op in OPERANDS
    }
    return QuantAttention(quantizers), quantizers


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_while_it_observes_and_with_sixteen_bits_it_equals_diffusers_processor(
    kind: Callable[[], tuple[Any, Inputs]],
) -> None:
    attention, inputs = kind()
    expected = attention(**inputs)
    observing, quantizers = processor(16)
    attention.set_processor(observing)
    assert_close(attention(**inputs), expected, rtol=1e-5, atol=1e-6)  # a fused kernel against two products
    for quantizer in quantizers.values():
        quantizer.finish()
    sixteen = attention(**inputs)
    assert not torch.equal(sixteen, expected)
    assert_close(sixteen, expected, rtol=0, atol=1e-3)  # four operands of size 1 to 4, each to 2^-16 of its range


@torch.no_grad()
def test_fewer_bits_are_further_away() -> None:
    attention, inputs = spatial()
    expected = attention(**inputs)
    errors = []
    for bits in (12, 8, 4):
        observing, quantizers = processor(bits)
        attention.set_processor(observing)
        attention(**inputs)
        for quantizer in quantizers.values():
            quantizer.finish()
        errors.append(float((attention(**inputs) - expected).norm()))
    assert errors == sorted(errors)


@pytest.mark.parametrize("options", [{"qk_norm": "layer_norm"}, {"cross_attention_norm": "layer_norm"}], ids=str)
def test_attention_with_norms_it_does_not_compute_is_refused(options: dict[str, str]) -> None:
    attention = Attention(query_dim=12, cross_attention_dim=6, heads=2, dim_head=8, **options)
    attention.set_processor(processor(8)[0])
    with pytest.raises(ValueError, match="quantized attention supports no "):
        attention(torch.randn(1, 4, 12), encoder_hidden_states=torch.randn(1, 3, 6))


@torch.no_grad()
def test_tokens_that_a_mask_leaves_out_count_as_in_diffusers() -> None:
    attention, inputs = cross()
    mask = torch.tensor([[[0.0, -10000.0, -10000.0]], [[0.0, 0.0, -10000.0]]])
    expected = attention(**inputs, attention_mask=mask)
    assert not torch.allclose(expected, attention(**inputs), atol=1e-3)
    attention.set_processor(processor(16)[0])  # while it observes, nothing is rounded
    assert_close(attention(**inputs, attention_mask=mask), expected, rtol=1e-5, atol=1e-6)
