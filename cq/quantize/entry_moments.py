"""Moments of full-precision against fake-quantized outputs at the layers that read the cached map.

CacheQuant's DEC for the quantization error: at each call, the cached half U of the layer's true input (the real norm
of the real concatenation; all of the input where nothing is concatenated) goes through the full-precision weight
(target) and through its quantized twin (source), both without bias. The two errors are fitted apart, hence "decoupled".
"""

from typing import Any

import torch
from torch import Tensor, nn

from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser
from cq.core.moments import PairMoments
from cq.quantize.layers import QuantLayer


def entry_moments(
    denoiser: GuidedDenoiser,
    twin: GuidedDenoiser,
    layers: list[str],
    trajectories: LockstepTrajectories,
    *,
    num_calls: int,
    may_rest: bool = False,
) -> dict[str, PairMoments]:
    """Layer name to moments [T, C_out], gathered along the full-precision trajectory that is deployed.

    may_rest: a strategy with several phases skips a layer at some calls; their rows then give the identity.
    """
    rows: dict[str, list[PairMoments | None]] = {name: [None] * num_calls for name in layers}
    handles = []
    call_index = denoiser.call_index
    for name in layers:
        plain: Any = denoiser.network.backbone.get_submodule(name)
        quantized = twin.network.backbone.get_submodule(name)
        assert isinstance(quantized, QuantLayer)

        def hook(_: nn.Module, args: tuple[Tensor, ...], name: str = name, plain: Any = plain,
                 quantized: QuantLayer = quantized) -> None:  # fmt: skip
            cached = args[0][:, : quantized.split] if quantized.split else args[0]
            call = call_index.value
            target = _product(plain, cached, quantized.split)
            with twin.call_index.at(call):
                source = quantized.corrected(cached)
            if not quantized.convolution:  # channels come second in moments
                source, target = source.movedim(-1, 1), target.movedim(-1, 1)
            new = PairMoments.of(source, target)
            old = rows[name][call]
            rows[name][call] = new if old is None else old + new

        handles.append(plain.register_forward_pre_hook(hook))
    try:
        for _ in trajectories(denoiser, deployed=True):
            pass
    finally:
        for handle in handles:
            handle.remove()
    return {name: PairMoments.stack(_complete(name, table, may_rest)) for name, table in rows.items()}


def _complete(name: str, rows: list[PairMoments | None], may_rest: bool) -> list[PairMoments]:
    """One row a call, with identity rows for calls at which the layer rested: a gap would shift all later calls."""
    missing = [call for call, row in enumerate(rows) if row is None]
    present = [row for row in rows if row is not None]
    if missing and not (may_rest and present):
        raise ValueError(f"{name} never ran at calls {missing}: only layers that run at every call can be corrected.")
    resting = PairMoments.of(*[torch.zeros(1, len(present[0].source_TC[0]))] * 2)  # nothing varies: gain 1, offset 0
    return [resting if row is None else row for row in rows]


def _product(layer: Any, cached: Tensor, split: int) -> Tensor:
    weight = (layer.weight[:, :split] if split else layer.weight).float()  # as the quantized twin computes
    cached = cached.float()
    if isinstance(layer, nn.Conv2d):
        padding: Any = layer.padding
        return torch.nn.functional.conv2d(cached, weight, None, layer.stride, padding, layer.dilation, layer.groups)
    return torch.nn.functional.linear(cached, weight)
