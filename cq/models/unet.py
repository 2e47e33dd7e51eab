"""diffusers U-Nets with a cut point: the full call, and the shallow call that reuses a cached map.

A cut point is a site named by its entry ResNet, `up_blocks.I.resnets.J`: the map that is cached is the main-path
input of that ResNet, before it is concatenated with the skip connection (DeepCache, arXiv:2312.00858).
Legend: N batch, C channel, H W space.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.denoiser import FullCall
from cq.models.known import check_network
from cq.models.sites import Cut, check_cut

IDS = 6  # numbers that SDXL is told: original size, crop corner, target size


def main_channels(unet: Any) -> dict[str, int]:
    """Entry ResNet name to the channels of its main path; what follows in the concatenation is the skip.

    These are the split positions of CacheQuant's and Q-Diffusion's shortcut quantization.
    """
    channels: dict[str, int] = {}
    current = int(unet.config.block_out_channels[-1])
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            channels[f"up_blocks.{i}.resnets.{j}"] = current
            current = int(resnet.out_channels)
    return channels


class UNetCut(nn.Module):
    """A U-Net2D(Condition)Model that can capture, and start again from, the map at a cut point.

    `full` is diffusers' own forward, bit for bit; `shallow` runs only what a cached call needs.
    """

    blocks = 0  # no transformer blocks a strategy could name

    def __init__(self, unet: Any) -> None:
        super().__init__()
        check_network({**unet.config, "_class_name": type(unet).__name__})
        self.backbone: Any = unet

    def check(self, sites: tuple[str, ...]) -> None:
        """Raise ValueError for a site that this U-Net does not have."""
        names = main_channels(self.backbone)
        for site in sites:
            check_cut(site, names)

    def splits(self) -> dict[str, int]:
        """Layers that read a concatenation, and how many of their input channels are the main path's."""
        return {
            f"{entry}.{layer}": channels
            for entry, channels in main_channels(self.backbone).items()
            for layer in ("conv1", "conv_shortcut")
        }

    def edges(self) -> frozenset[str]:
        """The first and the last layer."""
        return frozenset({"conv_in", "conv_out"})

    def units(self) -> list[str]:
        """Time embedding, first convolution, every ResNet, attention and down- or upsampler, last convolution."""
        names = ["time_embedding", *(["add_embedding"] if is_xl(self.backbone) else []), "conv_in"]
        for i, block in enumerate(self.backbone.down_blocks):
            names += _modules_of(f"down_blocks.{i}", block, "downsamplers")
        if self.backbone.mid_block is not None:
            names.append("mid_block.resnets.0")
            for j, attention in enumerate(self.backbone.mid_block.attentions):
                names += [] if attention is None else [f"mid_block.attentions.{j}"]
                names.append(f"mid_block.resnets.{j + 1}")
        for i, block in enumerate(self.backbone.up_blocks):
            names += _modules_of(f"up_blocks.{i}", block, "upsamplers")
        return [*names, "conv_out"]

    def readers(self, sites: tuple[str, ...]) -> list[str]:
        """The layers that read the cached map: entry convolution and shortcut of each site's ResNet."""
        return [name for name in self.splits() if name.rpartition(".")[0] in sites]

    def full(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, record: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole network: noise prediction (a learned variance is dropped) and the maps at the sites to record."""
        with self.recording(record) as run:
            return run(x_NCHW, timestep, cond)

    @contextmanager
    def recording(self, sites: tuple[str, ...]) -> Iterator[FullCall]:
        """`full` with the sites fixed: the hooks stand while the block runs, and not only during a call."""
        kept: dict[str, Tensor] = {}
        handles = [self._capture(site, kept) for site in sites]

        def run(x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
            if cond is None:
                eps = self.backbone(x_NCHW, timestep, return_dict=False)[0]
            else:
                context, added = unpacked(self.backbone, cond)
                eps = self.backbone(
                    x_NCHW, timestep, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False
                )[0]
            return self._noise(eps), {site: kept.pop(site) for site in sites}

        try:
            yield run
        finally:
            for handle in handles:
                handle.remove()

    def _capture(self, site: str, kept: dict[str, Tensor]) -> Any:
        channels = main_channels(self.backbone)[site]

        def capture(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # the concatenation's memory layout decides which kernels run next: keep it, or bits differ
            channels_last = args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous()
            layout = torch.channels_last if channels_last else torch.contiguous_format
            kept[site] = args[0][:, :channels].contiguous(memory_format=layout)

        return self.backbone.get_submodule(site).register_forward_pre_hook(capture)

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, reuse: Mapping[str, Tensor]) -> Tensor:
        """The same prediction from a cached map: only the blocks above its cut run.

        Raises ValueError unless exactly one site is reused: what feeds the lower of two cuts would be thrown away.
        """
        if len(reuse) != 1:
            raise ValueError(f"a U-Net reuses one site a call, not {sorted(reuse)}. Name one site a phase.")
        ((site, cached_NCHW),) = reuse.items()
        unet, cut = self.backbone, Cut.parse(site)
        if unet.config.center_input_sample:
            x_NCHW = 2 * x_NCHW - 1.0
        cond, added = (None, None) if cond is None else unpacked(unet, cond)
        emb = _time_embedding(unet, x_NCHW, timestep, added)
        later = [len(block.resnets) for block in unet.up_blocks][cut.block + 1 :]
        num_skips = len(unet.up_blocks[cut.block].resnets) - cut.resnet + sum(later)
        skips: list[Tensor] = []
        for skip in _down_path(unet, unet.conv_in(x_NCHW), emb, cond):
            skips.append(skip)
            if len(skips) == num_skips:
                break
        hidden = cached_NCHW
        for i, block in list(enumerate(unet.up_blocks))[cut.block :]:
            first = cut.resnet if i == cut.block else 0
            for j in range(first, len(block.resnets)):
                hidden = block.resnets[j](torch.cat([hidden, skips.pop()], dim=1), emb)
                hidden = _attend(block, j, hidden, cond)
            for upsampler in block.upsamplers or ():
                # as diffusers: where the levels do not divide the input, the next skip gives the size
                size = skips[-1].shape[2:] if _uneven(x_NCHW, unet) else None
                hidden = upsampler(hidden, emb if hasattr(upsampler, "time_emb_proj") else size)
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        return self._noise(unet.conv_out(hidden))

    def _noise(self, out: Tensor) -> Tensor:
        """Without a learned variance, which nothing here uses."""
        channels = int(self.backbone.config.in_channels)
        return out if out.shape[1] == channels else out[:, :channels]


def _modules_of(name: str, block: Any, samplers: str) -> list[str]:
    """ResNets and attentions of a down- or up-block by turns, then what changes the resolution."""
    attentions = len(getattr(block, "attentions", None) or ())
    names = []
    for j in range(len(block.resnets)):
        names.append(f"{name}.resnets.{j}")
        names += [f"{name}.attentions.{j}"] if j < attentions else []
    return names + [f"{name}.{samplers}.{j}" for j in range(len(getattr(block, samplers) or ()))]


def check_xl(unet: Any, pooled_NP: Tensor, num_ids: int) -> None:
    """Raise ValueError for a U-Net that is told something else, as SDXL's refiner, which is told an aesthetic score."""
    asked = int(unet.config.projection_class_embeddings_input_dim)
    if num_ids != IDS or pooled_NP.shape[1] + IDS * int(unet.config.addition_time_embed_dim) != asked:
        raise ValueError(
            f"added_cond_kwargs: a pooled text of {pooled_NP.shape[1]} and {num_ids} sizes, and an SDXL network is "
            f"told {IDS} sizes (its refiner is told others). Give the base pipeline."
        )


def packed(context_NLC: Tensor, pooled_NP: Tensor, ids_NI: Tensor) -> Tensor:
    """One tensor of what SDXL's U-Net is conditioned on: in a last row [pooled text; size and crop; zeros]."""
    row = torch.cat([pooled_NP, ids_NI.to(pooled_NP)], dim=1)
    return torch.cat([context_NLC, nn.functional.pad(row, (0, context_NLC.shape[2] - row.shape[1]))[:, None]], dim=1)


def unpacked(unet: Any, cond: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
    """The context, and what else diffusers' forward takes; undoes `packed` for the U-Nets that it was made for."""
    if not is_xl(unet):
        return cond, None
    pooled = int(unet.config.projection_class_embeddings_input_dim) - IDS * int(unet.config.addition_time_embed_dim)
    return cond[:, :-1], {"text_embeds": cond[:, -1, :pooled], "time_ids": cond[:, -1, pooled : pooled + IDS]}


def is_xl(unet: Any) -> bool:
    """Whether a U-Net is told a pooled text and the size of the image beside the prompt, as SDXL's."""
    return getattr(unet.config, "addition_embed_type", None) == "text_time"


def _time_embedding(unet: Any, x_NCHW: Tensor, timestep: Tensor, added: dict[str, Tensor] | None) -> Tensor:
    timesteps_N = timestep.expand(x_NCHW.shape[0]).to(x_NCHW.device)
    emb: Tensor = unet.time_embedding(unet.time_proj(timesteps_N).to(dtype=x_NCHW.dtype))
    if added is not None:
        emb = emb + unet.get_aug_embed(emb=emb, encoder_hidden_states=None, added_cond_kwargs=added)
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
