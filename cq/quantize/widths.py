"""Which layers bear few bits: what rounding each alone does to the prediction, and widths within a mean of bits.

The mean is over products, as bit operations count them, so that it is a budget of BOPs beside any number of refreshes.
"""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from cq.core.denoise import Trajectory
from cq.core.denoiser import CutNetwork, GuidedDenoiser
from cq.quantize.affine import over_weight, round_to_grid
from cq.quantize.layers import choose_weight_qparams
from cq.quantize.observers import Observer

MEASURED_BITS = 4
FALL = 4.0  # one bit more halves a grid's step, and its squared error falls to a quarter


Asked = tuple[Tensor, int, Tensor, Tensor | None]  # state, call, timestep, condition


@torch.no_grad()
def asked_along(trajectory: Trajectory, cond: Tensor | None, calls: Collection[int]) -> list[Asked]:
    """What the denoiser is asked at `calls`. trajectory: at its start, conditioned on `cond`; it is led to its end."""
    found = []
    while trajectory.call < trajectory.num_calls:
        if trajectory.call in calls:
            found.append((trajectory.scaled_NCHW.clone(), trajectory.call, trajectory.timestep, cond))
        trajectory.advance(trajectory.predict())
    return found


def inner_layers(network: CutNetwork) -> dict[str, nn.Conv2d | nn.Linear]:
    """By name; without the first and the last one, which have widths of their own."""
    return {
        name: layer
        for name, layer in network.backbone.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in network.edges()
    }


@torch.no_grad()
def sensitivities(denoiser: GuidedDenoiser, asked: Iterable[Asked], observer: Observer) -> dict[str, float]:
    """Layer to the relative squared change of the prediction where its weights alone have 4 bits, rounded to nearest.

    asked: full calls, as of `asked_along`; the mean is over them. Weights are exchanged in place and put back.
    """
    asked = list(asked)

    def predictions() -> list[Tensor]:
        return [
            denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse={}).eps_NCHW.double()
            for x_NCHW, call, timestep, cond in asked
        ]

    full = predictions()
    found = {}
    for name, layer in inner_layers(denoiser.network).items():
        whole = layer.weight.detach().clone()
        scale, zero_point = choose_weight_qparams(whole.cpu(), MEASURED_BITS, observer)
        grid = (over_weight(scale, whole), over_weight(zero_point, whole))
        try:
            layer.weight.copy_(round_to_grid(whole.cpu(), *grid, MEASURED_BITS))
            changes = [
                float((ours - theirs).square().sum() / theirs.square().sum())
                for ours, theirs in zip(predictions(), full, strict=True)
            ]
        finally:
            layer.weight.copy_(whole)
        found[name] = sum(changes) / len(changes)
    return found


def widths_within(
    change: Mapping[str, float], macs: Mapping[str, int], *, mean_bits: float, lowest: int = 2, highest: int = 8
) -> dict[str, int]:
    """Layer to bits: the least sum of changes of all widths whose mean over products is theirs, at most `mean_bits`.

    change: as of `sensitivities`; a bit more leaves a quarter of it. Bits are given one by one to the layer that gains
    most a product, which is the optimum of every mean on the way, since gains only fall. Raises ValueError where even
    `lowest` is too much.
    """
    if mean_bits < lowest:
        raise ValueError(f"mean_bits={mean_bits}: less than lowest={lowest}. Ask for more bits.")
    bits = dict.fromkeys(change, lowest)
    left = (mean_bits - lowest) * sum(macs[name] for name in change)

    def gain(name: str) -> float:
        now = change[name] * FALL ** (MEASURED_BITS - bits[name])
        return (now - now / FALL) / macs[name]

    while growing := [name for name in change if bits[name] < highest]:
        name = max(growing, key=gain)
        if macs[name] > left:
            break
        bits[name] += 1
        left -= macs[name]
    return bits
