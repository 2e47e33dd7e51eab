"""Attention whose two matrix products have fake-quantized operands."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cq.quantize.layers import ActQuantizer


class QuantAttention(nn.Module):
    """Attention processor with quantized operands of both matrix products: q, k, v and the softmax output.

    Stands in for diffusers' scaled-dot-product processor; softmax itself stays in float32.
    """

    def __init__(self, quantizers: Mapping[str, ActQuantizer]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.p = (quantizers[name] for name in ("q", "k", "v", "p"))

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        norms = (attn.spatial_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
        if any(norm is not None for norm in norms):
            raise ValueError("quantized attention supports no spatial, cross, query or key norms.")
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
        logits = self.q(query.float()) @ self.k(key.float()).transpose(-1, -2) * attn.scale
        if attention_mask is not None:  # a bias: 0, or far below it for tokens that are not there
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            logits = logits + mask.view(len(context), attn.heads, -1, mask.shape[-1])
        out = (self.p(logits.softmax(-1)) @ self.v(value.float())).transpose(1, 2).flatten(2).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        result: Tensor = out / attn.rescale_output_factor
        return result
