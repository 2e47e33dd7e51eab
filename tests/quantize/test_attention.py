"""Quantized attention against diffusers' own processor, and in bfloat16 against its definition in float64."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor
from torch.testing import assert_close

from cq.core.acceleration import NO_CORRECTION, Acceleration
from cq.core.artifacts import QuantParams
from cq.core.call import CallIndex
from cq.engine.between import ChannelsLast, joined
from cq.engine.int8 import Int8
from cq.quantize import attention as module
from cq.quantize.attention import BFloat16Attention, QuantAttention
from cq.quantize.layers import ActQuantizer
from cq.quantize.observers import MinMax
from cq.quantize.twin import OPERANDS, StoredLayer, with_layers
from tests.families import WRITERS, component
from tests.quantize.trajectories import CACHED, PTQ_8, TinyRuns

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
    for made in (processor(8)[0], BFloat16Attention()):
        attention.set_processor(made)
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


Operands = tuple[Tensor, Tensor, Tensor, Tensor]


def operands(queries: int, keys: int, *, rows: int = 1) -> Operands:
    """q, k, v of 2 images and 3 heads, and a bias that leaves out some keys."""
    q, k, v = (2 * torch.randn(2, 3, length, 8) for length in (queries, keys, keys))
    return q, k, v, torch.where(torch.rand(2, 3, rows, keys) < 0.2, -10000.0, 0.0)


def by_definition(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Every rounding to bfloat16 by itself, between sums in float64."""

    def rounded(x: Tensor) -> Tensor:
        return x.float().bfloat16().double()

    logits = rounded(rounded(rounded(q * scale) @ rounded(k).transpose(-1, -2)) + bias)
    return rounded(rounded(logits.softmax(-1)) @ rounded(v))


SHAPES = {"self": (40, 40, 40), "cross": (40, 7, 1), "one token": (9, 1, 1), "one query": (1, 300, 1)}


@pytest.mark.parametrize("instructions", [True, False], ids=["in bfloat16", "in float32"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bfloat16_is_what_it_says_with_and_without_instructions_for_it(
    shape: tuple[int, int, int], instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instructions and not module.multiplies_bfloat16():
        pytest.skip("this processor has no instructions for bfloat16")
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda: instructions)
    queries, keys, rows = shape
    q, k, v, bias = operands(queries, keys, rows=rows)
    bias[..., 0] = 0
    out = BFloat16Attention().products(q, k, v, bias, 0.4)
    expected = by_definition(q, k, v, bias, 0.4).float()
    assert out.dtype == torch.float32
    assert_close(out, expected, rtol=2**-6, atol=2**-7)  # a logit at an edge is rounded to the other side
    assert float((out != expected).float().mean()) < 0.05
    exact = (q.double() @ k.double().transpose(-1, -2) * 0.4 + bias).softmax(-1) @ v.double()
    assert 0 < float((out - exact).norm()) < 0.02 * float(exact.norm())


@pytest.mark.parametrize("scores", [1, 50, 130, 5000])
def test_bfloat16_is_the_same_however_many_queries_and_heads_are_taken_at_a_time(
    scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, bias = operands(21, 21, rows=21)
    whole = BFloat16Attention().products(q, k, v, bias, 0.4)
    monkeypatch.setitem(module.SCORES, "cpu", scores)
    assert_close(BFloat16Attention().products(q, k, v, bias, 0.4), whole, rtol=2**-6, atol=2**-7)


def test_bfloat16_passes_gradients_on() -> None:
    attention, inputs = cross()
    attention.set_processor(BFloat16Attention())
    attention(**inputs).square().sum().backward()
    rough = attention.to_k.weight.grad.clone()
    attention.zero_grad()
    attention.set_processor(AttnProcessor())
    attention(**inputs).square().sum().backward()
    assert float((rough - attention.to_k.weight.grad).norm()) < 0.05 * float(rough.norm())


@pytest.mark.parametrize("family", WRITERS)
@torch.no_grad()
def test_bfloat16_is_simulated_as_it_is_executed_in_every_family(
    family: str, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Int8, "check", lambda self, *, quantized: None)  # nothing here is multiplied in integers
    model = component(family, tiny_folders[family]).load()
    rows = replace(PTQ_8, attention="bfloat16").coverage(model.denoiser)
    attentions = [row["name"] for row in rows if row["kind"] == "attention"]
    assert attentions
    assert all(row.get("dtype") == "bfloat16" for row in rows if row["kind"] == "attention")
    alone = tuple(row if row["kind"] == "attention" else {**row, "reason": "none of this test"} for row in rows)
    params = QuantParams(tensors={}, bits={"attention": 16}, coverage=alone)
    x_NCHW, cond = torch.randn(1, *model.component.latent_shape), model.condition(torch.tensor([0]))

    def eps(denoiser: Any) -> Tensor:
        out: Tensor = denoiser(x_NCHW, call=0, timestep=torch.tensor(500), cond=cond, reuse={}).eps_NCHW
        return out

    twin = with_layers(model.denoiser, params, NO_CORRECTION, StoredLayer.simulated, share=True)
    joined(twin.network.backbone)  # the layout that the engine keeps, too
    acceleration = Acceleration(schedule=CACHED, params=params)
    simulated = eps(replace(twin, network=ChannelsLast(twin.network)))
    assert torch.equal(eps(Int8().lower(model.denoiser, acceleration)), simulated)
    assert 0 < float((simulated - eps(model.denoiser)).norm()) < 0.05 * float(simulated.norm())


def test_bfloat16_has_no_parameters_and_changes_no_others(runs: TinyRuns, params: QuantParams, tmp_path: Path) -> None:
    quantizer = replace(PTQ_8, attention="bfloat16")
    found = runs.calibrated(quantizer)
    attentions = {row["name"] for row in found.coverage if row["kind"] == "attention"}
    gone = {name for name in params.bits if name.rpartition(".")[0] in attentions and name[-1] in OPERANDS}
    assert gone
    assert set(found.bits) == set(params.bits) - gone
    for name, tensor in found.tensors.items():
        assert_close(tensor, params.tensors[name], rtol=1e-4, atol=1e-6)  # a fused kernel against two products
    found.save(tmp_path)
    off = runs.calibrated(replace(PTQ_8, attention=False))
    loaded = runs.latents(runs.twin(QuantParams.load(tmp_path)))
    assert torch.equal(loaded, runs.latents(runs.twin(found)))
    assert not torch.equal(loaded, runs.latents(runs.twin(off)))
    layers = [row["name"] for row in found.coverage if row["kind"] != "attention"]
    with pytest.raises(ValueError, match="leaves no layer to quantize"):
        replace(quantizer, exclude=tuple(layers)).coverage(runs.model.denoiser)
