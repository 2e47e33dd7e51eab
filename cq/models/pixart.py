"""PixArt's transformer with blocks that can be skipped (arXiv:2310.00426): DiT's blocks, and a text to attend to.

Sites are those of `cq.models.dit`. One tensor carries the text and which of its tokens are there: the last channel of
the condition [N, L, C + 1] is 1 for those, 0 for padding. Legend: N batch, L token, C channel, H W space.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cq.models.dit import DiTCut

MISSING = -10000.0  # diffusers' bias for a token that is not there


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Beside the hidden state. time_N6C: modulation of all blocks; text and its bias as diffusers' blocks take them."""

    time_N6C: Tensor
    embedded_NC: Tensor
    text_NLC: Tensor
    bias_N1L: Tensor


class PixArtCut(DiTCut):
    """A PixArtTransformer2DModel with sites. `full` is diffusers' own forward, bit for bit."""

    last = "proj_out"

    def units(self) -> list[str]:
        """Patch embedding, modulation, text projection, every block, the head."""
        blocks = [f"transformer_blocks.{i}" for i in range(self.blocks)]
        modulation = ["adaln_single.emb.timestep_embedder", "adaln_single.linear"]
        return ["pos_embed.proj", *modulation, "caption_projection", *blocks, self.last]

    def _whole(self, x_NCHW: Tensor, timesteps_N: Tensor, cond: Tensor | None) -> Tensor:
        assert cond is not None
        out: Tensor = self.backbone(
            x_NCHW, timestep=timesteps_N, encoder_hidden_states=cond[..., :-1], encoder_attention_mask=cond[..., -1],
            added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
        )[0]  # fmt: skip
        return out

    def _given(self, hidden: Tensor, timesteps_N: Tensor, cond: Tensor | None) -> _Given:
        assert cond is not None
        model = self.backbone
        time, embedded = model.adaln_single(timesteps_N, None, batch_size=len(hidden), hidden_dtype=hidden.dtype)
        return _Given(
            time_N6C=time.reshape(len(hidden), 6, -1),
            embedded_NC=embedded,
            text_NLC=model.caption_projection(cond[..., :-1]),
            bias_N1L=((1 - cond[..., -1].to(hidden.dtype)) * MISSING)[:, None],
        )

    def _block(self, block: Any, hidden: Tensor, given: _Given, attn: Tensor | None, mlp: Tensor | None) -> Tensor:
        """As diffusers' block; a branch [N, C, L] that is given is not computed."""
        modulation = block.scale_shift_table[None] + given.time_N6C
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=1)
        attn_NLC = block.attn1(block.norm1(hidden) * (1 + scale_a) + shift_a) if attn is None else attn.transpose(1, 2)
        hidden = gate_a * attn_NLC + hidden
        hidden = block.attn2(hidden, encoder_hidden_states=given.text_NLC, attention_mask=given.bias_N1L) + hidden
        mlp_NLC = block.ff(block.norm2(hidden) * (1 + scale_m) + shift_m) if mlp is None else mlp.transpose(1, 2)
        done: Tensor = gate_m * mlp_NLC + hidden
        return done

    def _head(self, hidden: Tensor, given: _Given) -> Tensor:
        model = self.backbone
        shift, scale = (model.scale_shift_table[None] + given.embedded_NC[:, None]).chunk(2, dim=1)
        tokens: Tensor = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)
        return tokens
