"""Counted cost: MACs and BOPs of a full and of a cached call, and weight bytes. Nothing here is a timing."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cq.core.artifacts import CacheSchedule
from cq.core.denoiser import OUTPUT, CutNetwork, within


@contextmanager
def counting(network: nn.Module) -> Iterator[dict[str, int]]:
    """Layer name to multiply-accumulates of what runs inside the block, for the batch that runs.

    Conv2d and Linear by their shapes; attention as the two matrix products of all heads.
    """
    macs: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        counter: Callable[[Any, Tensor], int]
        if isinstance(module, nn.Conv2d):
            counter = _conv_macs
        elif isinstance(module, nn.Linear):
            counter = _linear_macs
        elif hasattr(module, "to_q") and hasattr(module, "processor"):
            handles.append(module.to_k.register_forward_hook(_keep_length(module)))
            counter = _attention_macs
        else:
            continue

        def hook(m: nn.Module, args: Any, out: Tensor, name: str = name, counter: Any = counter) -> None:
            macs[name] = macs.get(name, 0) + counter(m, out)

        handles.append(module.register_forward_hook(hook))
    try:
        yield macs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def call_macs(
    network: CutNetwork, *, latent_shape: tuple[int, ...], cond: Tensor | None, sites: tuple[str, ...]
) -> tuple[dict[str, int], dict[str, int]]:
    """MACs by layer of a full call, and of one that reuses `sites`, for one batch element (guidance doubles both)."""
    weight = next(network.backbone.parameters())
    x_NCHW = torch.zeros(1, *latent_shape, dtype=weight.dtype, device=weight.device)
    if cond is not None and cond.is_floating_point():
        cond = cond.to(weight.dtype)
    timestep = torch.tensor(0)
    with counting(network.backbone) as full:
        _, cached = network.full(x_NCHW, timestep, cond, record=within(sites))
    with counting(network.backbone) as shallow:
        if OUTPUT not in sites:
            network.shallow(x_NCHW, timestep, cond, reuse=cached)
    return full, shallow


def counted_cost(
    network: CutNetwork,
    *,
    latent_shape: tuple[int, ...],
    cond: Tensor | None,
    schedule: CacheSchedule,
    sites: tuple[str, ...],
    coverage: tuple[Mapping[str, Any], ...],
) -> dict[str, float]:
    """MACs and BOPs averaged over the schedule, and the weights' bytes.

    sites: what is reused where the schedule has no phases; with phases a cached call is the mean over its calls.
    BOPs: sum over layers of MACs * weight bits * activation bits, 32 x 32 where not quantized (the paper's
    convention); an attention's two products count act * act and softmax * act bits.
    """
    refresh = set(schedule.refresh_calls)
    reused = [schedule.sites_at(call, default=sites) for call in range(schedule.num_calls) if call not in refresh]
    used = reused or [schedule.sites_at(0, default=sites)]  # no call is cached: what one would cost
    full: dict[str, int] = {}
    shallow: dict[str, float] = {}
    for distinct in dict.fromkeys(used):
        full, one = call_macs(network, latent_shape=latent_shape, cond=cond, sites=distinct)
        for name, count in one.items():
            shallow[name] = shallow.get(name, 0.0) + count * used.count(distinct) / len(used)
    widths = {row["name"]: row for row in coverage}
    share = len(schedule.refresh_calls) / schedule.num_calls

    def bops(macs: Mapping[str, float]) -> float:
        return float(sum(count * _bit_product(widths.get(name)) for name, count in macs.items()))

    def mean(of_full: float, of_shallow: float) -> float:
        return share * of_full + (1 - share) * of_shallow

    weight_bits = full_bits = 0.0
    for name, parameter in network.backbone.named_parameters():
        layer, _, kind = name.rpartition(".")
        row = widths.get(layer)
        bits = row["weight_bits"] if row is not None and kind == "weight" else 32
        weight_bits += parameter.numel() * bits
        if row is not None and kind == "weight" and (group := row.get("weight_group")):
            # Scale and zero point a group; those of whole channels are not counted.
            for inputs in (row["split"], parameter.shape[1] - row["split"]):
                weight_bits += parameter.shape[0] * math.ceil(inputs / group) * (32 + bits)
        full_bits += parameter.numel() * 32
    return {
        "num_calls": schedule.num_calls,
        "num_refreshes": len(schedule.refresh_calls),
        "macs_full": float(sum(full.values())),
        "macs_cached": float(sum(shallow.values())),
        "macs_mean": mean(sum(full.values()), sum(shallow.values())),
        "bops_mean": mean(bops(full), bops(shallow)),
        "weight_bytes": weight_bits / 8,
        "compression": full_bits / weight_bits,
    }


def _bit_product(row: Mapping[str, Any] | None) -> float:
    if row is None:
        return 32.0 * 32.0
    if row["kind"] == "attention":
        return float(row["act_bits"] * row["act_bits"] + row["weight_bits"] * row["act_bits"]) / 2
    return float(row["weight_bits"] * row["act_bits"])


def _conv_macs(module: nn.Conv2d, out: Tensor) -> int:
    return out.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]


def _linear_macs(module: nn.Linear, out: Tensor) -> int:
    return out.numel() * module.in_features


def _keep_length(attention: Any) -> Any:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        attention.__dict__["_counted_keys"] = out.shape[1]

    return hook


def _attention_macs(module: Any, out: Tensor) -> int:
    keys = module.__dict__.pop("_counted_keys")
    inner = module.to_q.out_features
    queries = out.shape[1] if out.ndim == 3 else out.shape[2] * out.shape[3]
    return int(2 * out.shape[0] * queries * keys * inner)
