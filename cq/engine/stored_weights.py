"""A quantized network's weights as they are deployed: packed codes, and every other parameter as it is.

The file beside an Acceleration is all that an engine needs in the place of the network's checkpoint: the float weights
of quantized layers are neither in it nor made again. Codes of up to 4 bits lie two in a byte, of up to 8 bits one; a
tensor that several layers share is held once. Weights of more bits stay float.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cq.core.artifacts import QuantParams, digest_of_tensor
from cq.models.architecture import build_module
from cq.quantize.affine import quantize
from cq.quantize.layers import halves

FILE = "network.safetensors"
BYTE, NIBBLE = 8, 4


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8: two codes a byte, the first in the lower half, where `bits` leave room for that; else one."""
    flat = codes.flatten().to(torch.uint8)
    if bits > NIBBLE:
        return flat
    pairs = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << NIBBLE)


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """The codes, uint8 of that shape, a byte each: what is multiplied."""
    if bits > NIBBLE:
        return packed.view(shape)
    pairs = torch.stack([packed & (2**NIBBLE - 1), packed >> NIBBLE], dim=1)
    return pairs.flatten()[: shape.numel()].view(shape)


def coded(params: QuantParams) -> dict[str, Mapping[str, Any]]:
    """Name of a weight to its layer's row of the coverage, where the file holds its codes."""
    return {
        f"{row['name']}.weight": row
        for row in params.coverage
        if not row["reason"] and row["kind"] != "attention" and row["weight_bits"] <= BYTE
    }


def save_weights(folder: Path, backbone: Any, params: QuantParams) -> int:
    """Write `network.safetensors` for a backbone of diffusers, in full precision; its bytes."""
    rows = coded(params)
    tensors: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    same: dict[str, str] = {}  # name of a parameter to that of an earlier one that is equal
    for name, tensor in backbone.state_dict().items():
        held = tensor.detach().cpu()
        if name in rows:
            held = pack(_codes(held, rows[name], params), rows[name]["weight_bits"])
        known = first.setdefault(digest_of_tensor(held), name)
        if known == name:
            tensors[name] = held.contiguous()
        else:
            same[name] = known
    config = {key: value for key, value in backbone.config.items() if not key.startswith("_")}
    about = {"config": {"_class_name": type(backbone).__name__, **config}, "same": same, "params": params.digest}
    path = folder / FILE
    save_file(tensors, path, metadata={"network": json.dumps(about, default=str)})
    return path.stat().st_size


def load_weights(folder: Path, params: QuantParams) -> tuple[nn.Module, QuantParams]:
    """The backbone without the float weights of quantized layers, which are on the meta device, and their codes.

    params: those that it was saved with. Raises ValueError for others.
    """
    with safe_open(folder / FILE, framework="pt") as file:
        about = json.loads(file.metadata()["network"])
        if about["params"] != params.digest:
            raise ValueError(f"{folder / FILE}: was saved with other parameters. Give those that it was saved with.")
        with init_empty_weights(include_buffers=False):
            backbone: nn.Module = build_module(about["config"]).eval()
        names = {**{name: name for name in file.keys()}, **about["same"]}  # noqa: SIM118 - no mapping
        rows, state = coded(params), {}
        codes: dict[str, Tensor] = {}
        for name, first in names.items():
            tensor = file.get_tensor(first)
            if name in rows:
                shape = backbone.get_parameter(name).shape
                codes |= dict(_halved(unpack(tensor, rows[name]["weight_bits"], shape), rows[name]))
            else:
                state[name] = tensor
    backbone.load_state_dict(state, strict=False, assign=True)
    return backbone.requires_grad_(False), replace(params, tensors={**params.tensors, **codes})


def _codes(weight: Tensor, row: Mapping[str, Any], params: QuantParams) -> Tensor:
    """Of both halves, side by side as in the weight."""
    found = []
    for index, part in enumerate(halves(weight, row["split"])):
        grid = {
            key: params.tensors.get(f"{row['name']}.weight{index}/{key}") for key in ("scale", "zero_point", "codes")
        }
        if grid["codes"] is not None:
            found.append(grid["codes"].to(torch.uint8))
            continue
        assert grid["scale"] is not None
        assert grid["zero_point"] is not None
        rows = (-1,) + (1,) * (weight.ndim - 1)
        found.append(quantize(part, grid["scale"].view(rows), grid["zero_point"].view(rows), row["weight_bits"]))
    return torch.cat([part.to(torch.uint8) for part in found], dim=1)


def _halved(codes: Tensor, row: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for index, part in enumerate(halves(codes, row["split"])):
        yield f"{row['name']}.weight{index}/codes", part
