"""diffusers U-Nets with one cut point: the full call, and the shallow call that reuses a cached map.

The cut point is named by its entry ResNet, `up_blocks.I.resnets.J`: the map that is cached is the main-path
input of that ResNet, before it is concatenated with the skip connection (DeepCache, arXiv:2312.00858).
Legend: N batch, C channel, H W space.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the U-Net is cut. block, resnet: indices of the entry ResNet among the up-blocks."""

    block: int
    resnet: int

    @staticmethod
    def parse(site: str) -> "Cut":
        """`up_blocks.I.resnets.J` to a Cut; ValueError for any other text."""
        match = re.fullmatch(r"up_blocks\.(\d+)\.resnets\.(\d+)", site)
        if match is None:
            raise ValueError(
                f"model.site={site!r}: a U-Net's cut point is named by its entry ResNet, `up_blocks.I.resnets.J` "
                "(the last ResNet of the last up-block is the shallowest cut)."
            )
        return Cut(block=int(match[1]), resnet=int(match[2]))

    @property
    def site(self) -> str:
        return f"up_blocks.{self.block}.resnets.{self.resnet}"


def main_channels(unet: Any) -> dict[str, int]:
    """Entry ResNet name to the channels of its main path; what follows in the concatenation is the skip.

    These are the split positions of CacheQuant's and Q-Diffusion's shortcut quantization.
    """
    channels: dict[str, int] = {}
    current = int(unet.mid_block.resnets[-1].out_channels)
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            channels[f"up_blocks.{i}.resnets.{j}"] = current
            current = int(resnet.out_channels)
    return channels


class UNetCut(nn.Module):
    """A U-Net2D(Condition)Model that can capture, and start again from, the map at its cut point.

    `forward` is diffusers' own forward, bit for bit; `shallow` runs only what a cached step needs.
    """

    def __init__(self, unet: Any, cut: Cut) -> None:
        super().__init__()
        for option in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type"):
            if getattr(unet.config, option, None) is not None:
                raise ValueError(
                    f"{option}={getattr(unet.config, option)!r}: the shallow call of this U-Net is not written yet; "
                    "extend cq/models/unet.py:UNetCut.shallow."
                )
        names = main_channels(unet)
        if cut.site not in names:
            raise ValueError(f"model.site={cut.site!r}: this U-Net has {', '.join(names)}. Choose from those.")
        self.unet: Any = unet
        self.cut = cut
        self.cached_channels = names[cut.site]

    @property
    def entry(self) -> nn.Module:
        """The first ResNet that runs on a cached step."""
        resnet: nn.Module = self.unet.up_blocks[self.cut.block].resnets[self.cut.resnet]
        return resnet

    def full(self, x_NCHW: Tensor, timestep: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The whole network: noise prediction and the map at the cut point."""
        captured: list[Tensor] = []

        def capture(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # the concatenation's memory layout decides which kernels run next: keep it, or bits differ
            channels_last = args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous()
            layout = torch.channels_last if channels_last else torch.contiguous_format
            captured.append(args[0][:, : self.cached_channels].contiguous(memory_format=layout))

        handle = self.entry.register_forward_pre_hook(capture)
        try:
            if context is None:
                eps = self.unet(x_NCHW, timestep, return_dict=False)[0]
            else:
                eps = self.unet(x_NCHW, timestep, encoder_hidden_states=context, return_dict=False)[0]
        finally:
            handle.remove()
        return eps, captured[0]

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, context: Tensor | None, cached_NCHW: Tensor) -> Tensor:
        """The same prediction from a cached map: only the blocks above the cut run."""
        unet, cut = self.unet, self.cut
        if unet.config.center_input_sample:
            x_NCHW = 2 * x_NCHW - 1.0
        emb = _time_embedding(unet, x_NCHW, timestep)
        later = [len(block.resnets) for block in unet.up_blocks][cut.block + 1 :]
        num_skips = len(unet.up_blocks[cut.block].resnets) - cut.resnet + sum(later)
        skips: list[Tensor] = []
        for skip in _down_path(unet, unet.conv_in(x_NCHW), emb, context):
            skips.append(skip)
            if len(skips) == num_skips:
                break
        hidden = cached_NCHW
        for i, block in list(enumerate(unet.up_blocks))[cut.block :]:
            first = cut.resnet if i == cut.block else 0
            for j in range(first, len(block.resnets)):
                hidden = block.resnets[j](torch.cat([hidden, skips.pop()], dim=1), emb)
                hidden = _attend(block, j, hidden, context)
            for upsampler in block.upsamplers or ():
                # as diffusers: where the levels do not divide the input, the next skip gives the size
                size = skips[-1].shape[2:] if _uneven(x_NCHW, unet) else None
                hidden = upsampler(hidden, emb if hasattr(upsampler, "time_emb_proj") else size)
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        out: Tensor = unet.conv_out(hidden)
        return out


def _time_embedding(unet: Any, x_NCHW: Tensor, timestep: Tensor) -> Tensor:
    timesteps_N = timestep.expand(x_NCHW.shape[0]).to(x_NCHW.device)
    emb: Tensor = unet.time_embedding(unet.time_proj(timesteps_N).to(dtype=x_NCHW.dtype))
    activation = getattr(unet, "time_embed_act", None)
    return emb if activation is None else activation(emb)


def _down_path(unet: Any, hidden: Tensor, emb: Tensor, context: Tensor | None) -> Iterator[Tensor]:
    """The skip tensors in the order in which the encoder makes them; nothing is computed before it is asked for."""
    yield hidden
    for block in unet.down_blocks:
        for j, resnet in enumerate(block.resnets):
            hidden = _attend(block, j, resnet(hidden, emb), context)
            yield hidden
        for downsampler in block.downsamplers or ():
            residual = hasattr(downsampler, "time_emb_proj")  # a ResNet that downsamples
            hidden = downsampler(hidden, emb) if residual else downsampler(hidden)
            yield hidden


def _attend(block: Any, index: int, hidden: Tensor, context: Tensor | None) -> Tensor:
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return hidden
    if getattr(block, "has_cross_attention", False):
        attended: Tensor = attentions[index](hidden, encoder_hidden_states=context, return_dict=False)[0]
        return attended
    plain: Tensor = attentions[index](hidden)
    return plain


def _uneven(x_NCHW: Tensor, unet: Any) -> bool:
    """Whether diffusers forwards explicit upsampling sizes (an input side that the levels do not divide)."""
    factor = 2 ** int(getattr(unet, "num_upsamplers", 0))
    return any(side % factor != 0 for side in x_NCHW.shape[2:])
