"""diffusers' DiT with blocks that can be skipped: the full call, and the shallow call that reuses what was cached.

Two kinds of sites. `blocks.L-R`: the deviation across blocks L to R-1, which stands in for running them (Delta-DiT,
arXiv:2406.01125). `blocks.I.attn`, `blocks.I.mlp`: an output before its adaLN gate (FORA, arXiv:2407.01425).
Legend: N batch, L token, C channel (so cached maps are [N, C, L]), H W space.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.denoiser import FullCall
from cq.models.known import check_network, completed
from cq.models.sites import Branch, Range, check_blocks, parse

BRANCHES = ("attn", "mlp")


class DiTCut(nn.Module):
    """A DiTTransformer2DModel with sites. `full` is diffusers' own forward, bit for bit.

    A deviation is held at twice the precision of the network: the difference of two floats is then exact, and adding
    it back gives the very same bits.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        check_network(completed({**transformer.config, "_class_name": type(transformer).__name__}))
        self.backbone: Any = transformer

    @property
    def blocks(self) -> int:
        """How many transformer blocks there are."""
        return len(self.backbone.transformer_blocks)

    def check(self, sites: tuple[str, ...]) -> None:
        """Raise ValueError for a site that this transformer does not have."""
        check_blocks(sites, self.blocks)

    last = "proj_out_2"  # the layer that draws the patches

    def splits(self) -> dict[str, int]:
        """No layer of a DiT reads a concatenation."""
        return {}

    def edges(self) -> frozenset[str]:
        """The first and the last layer."""
        return frozenset({"pos_embed.proj", self.last})

    def units(self) -> list[str]:
        """The patch embedding, every block, and both projections of the head."""
        blocks = [f"transformer_blocks.{i}" for i in range(self.blocks)]
        return ["pos_embed.proj", *blocks, "proj_out_1", "proj_out_2"]

    def readers(self, sites: tuple[str, ...]) -> list[str]:
        """The layers that read the map behind each range: the next block's q, k and v, or the last projection.

        What FORA caches is read by no layer directly: it is gated and added.
        """
        names: list[str] = []
        for site in sites:
            place = parse(site)
            if isinstance(place, Range) and place.last > place.first:
                block = f"transformer_blocks.{place.last}.attn1"
                names += [f"{block}.to_{x}" for x in "qkv"] if place.last < self.blocks else [self.last]
        return list(dict.fromkeys(names))

    def full(
        self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, record: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole network: noise prediction (a learned variance is dropped) and what the sites to record hold."""
        with self.recording(record) as run:
            return run(x_NCHW, timestep, cond)

    @contextmanager
    def recording(self, sites: tuple[str, ...]) -> Iterator[FullCall]:
        """`full` with the sites fixed: the hooks stand while the block runs, and not only during a call."""
        places = {site: parse(site) for site in sites}
        hidden_NLC: dict[int, Tensor] = {}  # the state in front of a block
        branches: dict[str, Tensor] = {}
        handles = []
        for boundary in {b for p in places.values() if isinstance(p, Range) for b in (p.first, p.last)}:
            handles.append(self._in_front_of(boundary).register_forward_pre_hook(_keep_input(hidden_NLC, boundary)))
        for site, place in places.items():
            if isinstance(place, Branch):
                handles.append(self._module(place).register_forward_hook(_keep_output(branches, site)))

        def run(x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
            out = self._whole(x_NCHW, timestep.to(x_NCHW.device).expand(len(x_NCHW)), cond)
            features = {}
            for site, place in places.items():
                held_NLC = (
                    branches[site]
                    if isinstance(place, Branch)
                    else _deviation(hidden_NLC[place.first], hidden_NLC[place.last])
                )
                features[site] = held_NLC.transpose(1, 2)
            hidden_NLC.clear()
            branches.clear()
            return self._noise(out), features

        try:
            yield run
        finally:
            for handle in handles:
                handle.remove()

    def shallow(self, x_NCHW: Tensor, timestep: Tensor, cond: Tensor | None, *, reuse: Mapping[str, Tensor]) -> Tensor:
        """The same prediction where the ranges and branches in `reuse` are not run."""
        ranges: dict[int, tuple[int, Tensor]] = {}
        branches: dict[tuple[int, str], Tensor] = {}
        for site, held in reuse.items():  # a loop: torch.compile breaks at an assignment inside a comprehension
            place = parse(site)
            if isinstance(place, Range):
                ranges[place.first] = (place.last, held)
            else:
                branches[place.block, place.name] = held
        size = self.backbone.config.patch_size
        height, width = x_NCHW.shape[-2] // size, x_NCHW.shape[-1] // size
        hidden = self.backbone.pos_embed(x_NCHW)
        given = self._given(hidden, timestep.to(x_NCHW.device).expand(len(x_NCHW)), cond)
        index = 0
        while index < self.blocks:
            last, deviation = ranges.get(index, (index, None))
            if deviation is not None and last > index:
                hidden = (hidden.to(deviation.dtype) + deviation.transpose(1, 2)).to(hidden.dtype)
                index = last
                continue
            block = self.backbone.transformer_blocks[index]
            attn, mlp = (branches.get((index, name)) for name in BRANCHES)
            hidden = self._block(block, hidden, given, attn, mlp)
            index += 1
        return self._noise(self._map(self._head(hidden, given), height, width))

    def _whole(self, x_NCHW: Tensor, timesteps_N: Tensor, cond: Tensor | None) -> Tensor:
        out: Tensor = self.backbone(x_NCHW, timestep=timesteps_N, class_labels=cond, return_dict=False)[0]
        return out

    def _given(self, hidden: Tensor, timesteps_N: Tensor, cond: Tensor | None) -> Any:
        """What every block and the head are given beside the hidden state."""
        return timesteps_N, cond

    def _block(self, block: Any, hidden: Tensor, given: Any, attn: Tensor | None, mlp: Tensor | None) -> Tensor:
        timesteps_N, labels_N = given
        return _run_block(block, hidden, timesteps_N, labels_N, attn, mlp)

    def _head(self, hidden: Tensor, given: Any) -> Tensor:
        """As the end of diffusers' forward: tokens of the patches."""
        model = self.backbone
        timesteps_N, labels_N = given
        emb = model.transformer_blocks[0].norm1.emb(timesteps_N, labels_N, hidden_dtype=hidden.dtype)
        shift, scale = model.proj_out_1(nn.functional.silu(emb)).chunk(2, dim=1)
        hidden = model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None]
        tokens: Tensor = model.proj_out_2(hidden)
        return tokens

    def _map(self, tokens: Tensor, height: int, width: int) -> Tensor:
        size, channels = self.backbone.config.patch_size, self.backbone.out_channels
        grid = tokens.reshape(-1, height, width, size, size, channels)
        return torch.einsum("nhwpqc->nchpwq", grid).reshape(-1, channels, height * size, width * size)

    def _noise(self, out: Tensor) -> Tensor:
        channels = int(self.backbone.config.in_channels)
        return out if out.shape[1] == channels else out[:, :channels]

    def _in_front_of(self, index: int) -> nn.Module:
        module: nn.Module = self.backbone.norm_out if index == self.blocks else self.backbone.transformer_blocks[index]
        return module

    def _module(self, place: Branch) -> nn.Module:
        block = self.backbone.transformer_blocks[place.block]
        module: nn.Module = block.attn1 if place.name == "attn" else block.ff
        return module


def _run_block(
    block: Any, hidden: Tensor, timesteps_N: Tensor, labels_N: Tensor | None, attn: Tensor | None, mlp: Tensor | None
) -> Tensor:
    """One block; a branch [N, C, L] that is given is not computed, and neither is the norm in front of it."""
    if attn is None and mlp is None:
        out: Tensor = block(hidden, timestep=timesteps_N, class_labels=labels_N)
        return out
    norm1 = block.norm1
    emb = norm1.linear(norm1.silu(norm1.emb(timesteps_N, labels_N, hidden_dtype=hidden.dtype)))
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = emb.chunk(6, dim=1)
    if attn is None:
        attn_NLC = block.attn1(norm1.norm(hidden) * (1 + scale_a[:, None]) + shift_a[:, None])
    else:
        attn_NLC = attn.transpose(1, 2)
    hidden = gate_a.unsqueeze(1) * attn_NLC + hidden
    if mlp is None:
        mlp_NLC = block.ff(block.norm3(hidden) * (1 + scale_m[:, None]) + shift_m[:, None])
    else:
        mlp_NLC = mlp.transpose(1, 2)
    done: Tensor = gate_m.unsqueeze(1) * mlp_NLC + hidden
    return done


def _deviation(before: Tensor, after: Tensor) -> Tensor:
    wide = torch.float64 if before.dtype == torch.float32 else torch.float32
    return after.to(wide) - before.to(wide)


def _keep_input(kept: dict[int, Tensor], index: int) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept[index] = args[0]

    return hook


def _keep_output(kept: dict[str, Tensor], site: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, out: Tensor) -> None:
        kept[site] = out

    return hook
