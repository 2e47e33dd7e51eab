"""Attention whose two matrix products have fake-quantized operands, or operands in bfloat16.

Legend: B batch, H head, L query, M key, D channel of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from cq.quantize.layers import ActQuantizer

SCORES = {"cpu": 2**19}  # of one product, so that 16 bits each stay in a core's cache
SCORES_ELSEWHERE = 2**26


def check_norms(attn: Any) -> None:
    """Raise ValueError for an attention of diffusers with norms that no processor here computes."""
    norms = (attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    if any(norm is not None for norm in norms):
        raise ValueError("quantized attention supports no spatial, cross, query or key norms.")


class Attention(nn.Module, ABC):
    """An attention processor in the place of diffusers' scaled-dot-product one; the products are a subclass's."""

    @abstractmethod
    def products(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """float32 softmax(q k^T scale + bias) v. q: [B, H, L, D]. k, v: [B, H, M, D]. bias: [B, H, L or 1, M]."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        check_norms(attn)
        residual = hidden_states
        shape = hidden_states.shape
        if hidden_states.ndim == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x_NLC: Tensor) -> Tensor:
            return x_NLC.view(*x_NLC.shape[:2], attn.heads, -1).transpose(1, 2)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        bias = None
        if attention_mask is not None:  # 0, or far below it for tokens that are not there
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            bias = mask.view(len(context), attn.heads, -1, mask.shape[-1])
        out = self.products(query.float(), key.float(), value.float(), bias, attn.scale)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        result: Tensor = out / attn.rescale_output_factor
        return result


class QuantAttention(Attention):
    """With quantized operands of both products: q, k, v and the softmax output; softmax itself stays in float32."""

    def __init__(self, quantizers: Mapping[str, ActQuantizer]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.p = (quantizers[name] for name in ("q", "k", "v", "p"))

    def products(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        logits = self.q(q) @ self.k(k).transpose(-1, -2) * scale
        out: Tensor = self.p((logits if bias is None else logits + bias).softmax(-1)) @ self.v(v)
        return out


class BFloat16Attention(Attention):
    """With operands and results of both products in bfloat16, summed in float32, as every engine executes it.

    Products are made for as many queries at a time as keep the scores in a core's cache. A processor without such
    instructions multiplies the same operands in float32: each product is exact there, too, and only the order of the
    sums differs, by one rounding to bfloat16 where that decides it.
    """

    def products(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        (*_, queries, _), keys = q.shape, k.shape[2]
        scores = SCORES.get(q.device.type, SCORES_ELSEWHERE)
        rows = min(queries, max(1, scores // keys))
        heads = max(1, scores // (rows * keys))
        # What is multiplied many times lies dense: a product would change its layout for every chunk.
        layout = torch.contiguous_format if rows < queries else torch.preserve_format
        q, k_T, v = (x.to(torch.bfloat16, memory_format=layout) for x in (q * scale, k.transpose(-1, -2), v))
        bias = None if bias is None else bias.expand(*q.shape[:3], keys)
        out = torch.empty(len(q), queries, q.shape[1], v.shape[-1], device=q.device).transpose(1, 2)
        for b, first in ((b, h) for b in range(len(q)) for h in range(0, q.shape[1], heads)):
            some = (b, slice(first, first + heads) if heads > 1 else first)  # one alone is no batch of matrices
            for start in range(0, queries, rows):
                at = (*some, ..., slice(start, start + rows), slice(None))
                logits = product(q[at], k_T[some])
                p = (logits if bias is None else logits + bias[at].bfloat16()).softmax(-1)
                out[at] = product(p, v[some]).float()
        return out


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of bfloat16, rounded to it once."""
    if a.device.type != "cpu" or multiplies_bfloat16():
        return a @ b
    return (a.float() @ b.float()).bfloat16()


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it: they take numbers below 1.2e-38 as zero, and no emulation does.

    Without them oneDNN's products in bfloat16 are several times slower than those in float32.
    """
    small, ones = (torch.full((64, 64), value, dtype=torch.bfloat16) for value in (1e-39, 1.0))
    return not bool((small @ ones).any())
