"""What stands between integer layers computes what it did, without copies."""

from typing import Any

import pytest
import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from cq.engine import between
from cq.engine.between import LinearGELU, joined
from cq.engine.integer import IntegerLayer
from cq.engine.kernels import weight_bits
from tests.engine.products import layer


@pytest.mark.parametrize("shift", [0, 3], ids=["zero points", "around zero"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gelu_runs_with_the_layer_before_it(approximate: str, shift: int) -> None:
    block: Any = nn.Sequential(GELU(48, 20, approximate=approximate)).requires_grad_(False)
    stored = layer(block[0].proj, split=0, bits=weight_bits(), shift=shift, learned=True, gains=False)
    if shift:
        stored.params.tensors["l.weight0/zero_point"].fill_(2 ** (weight_bits() - 1))
    block[0].proj = IntegerLayer(stored, exact_bits=weight_bits())
    x = torch.randn(2, 5, 48)
    with stored.call_index.at(0):
        want = block(x)
        joined(block)
        assert isinstance(block[0], LinearGELU)
        torch.testing.assert_close(block(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
def test_a_transformer_keeps_the_layout_and_its_values(linear: bool) -> None:
    transformer: Any = Transformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=8, norm_num_groups=2, use_linear_projection=linear
    )
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        want = transformer(x, return_dict=False)[0]
        assert not want.is_contiguous(memory_format=torch.channels_last), "diffusers copies no more: nothing to mend"
        joined(transformer)
        out = transformer(x, return_dict=False)[0]
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["geglu", "gelu-approximate"])
def test_a_feed_forward_in_pieces_is_the_whole(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "LEAST_ROWS", 3)
    monkeypatch.setattr(between, "ENTRIES", 8)
    whole = FeedForward(8, activation_fn=activation).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        want = whole(x)
        seen: list[int] = []
        whole.net[2].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        block = nn.Sequential(whole)
        joined(block)
        torch.testing.assert_close(block(x), want, rtol=1e-12, atol=1e-12)
    assert seen == [3, 3, 3, 1]
