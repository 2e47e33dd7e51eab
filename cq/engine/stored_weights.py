"""A quantized network's weights as they are deployed: packed codes, and every other parameter as it is.

The file beside an Acceleration is all that an engine needs in the place of the network's checkpoint: the float weights
of quantized layers are neither in it nor made again. Codes of up to 4 bits lie two in a byte, of up to 8 bits one; a
tensor that several layers share is held once. Weights of more bits stay float.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import Self

from cq.core.artifacts import QuantParams, digest_of_tensor
from cq.core.checksum import digest_of
from cq.engine.fingerprint import parameters_digest
from cq.models.architecture import set_heads
from cq.quantize.affine import over_weight, quantize
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


def without_codes(params: QuantParams) -> QuantParams:
    """The parameters beside the file: learned codes are in it."""
    held = {key for name, row in coded(params).items() for key in _keys(name, row["split"])}
    return replace(params, tensors={key: params.tensors[key] for key in params.tensors if key not in held})


def save_weights(folder: Path, backbone: Any, params: QuantParams) -> int:
    """Write `network.safetensors` for a backbone of diffusers, in full precision; its bytes."""
    rows, state = coded(params), backbone.state_dict()
    tensors: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    same: dict[str, str] = {}  # name of a parameter to that of an earlier one that is equal
    for name, tensor in state.items():
        held = tensor.detach().cpu()
        if name in rows:
            held = pack(_codes(held, rows[name], params), rows[name]["weight_bits"])
        known = first.setdefault(digest_of_tensor(held), name)
        if known == name:
            tensors[name] = held.contiguous()
        else:
            same[name] = known
    dtype = next(backbone.parameters()).dtype
    config = {key: value for key, value in backbone.config.items() if not key.startswith("_")}
    about = {
        "config": {"_class_name": type(backbone).__name__, **config}, "same": same,
        "codes": {
            name: {"bits": row["weight_bits"], "split": row["split"], "shape": list(state[name].shape)}
            for name, row in rows.items()
        },
        "learned": [key for name, row in rows.items() for key in _keys(name, row["split"]) if key in params.tensors],
        "params": without_codes(params).digest, "content": digest_of(first),
        "dtype": str(dtype).removeprefix("torch."), "made_of": parameters_digest(backbone, dtype),
    }  # fmt: skip
    path = folder / FILE
    save_file(tensors, path, metadata={"network": json.dumps(about)})
    return path.stat().st_size


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """What `save_weights` wrote; tensors are read when they are asked for, and none is kept.

    config: of the network, with its class. dtype, made_of: number type and `parameters_digest` of the checkpoint that
    it was made of. codes: bits, split and shape of every weight that is held in codes, by name. learned: keys of codes
    that the parameters had themselves. params: digest of those without. same: names of equal tensors, to the one that
    is held. content: digest of all tensors, so that a file that was written over is told from this one.
    """

    path: Path
    config: Mapping[str, Any]
    dtype: str
    made_of: str
    codes: Mapping[str, Mapping[str, Any]]
    learned: tuple[str, ...]
    params: str
    same: Mapping[str, str]
    content: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Raises ValueError for a folder without that file, or with another of its name."""
        path = folder / FILE
        try:
            with safe_open(path, framework="pt") as file:
                about = _about(file)
                return cls(path=path, **{**about, "learned": tuple(about["learned"])})
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: holds no weights that an Acceleration was saved with ({error}). Save it again with weights."
            ) from error

    def network(self) -> nn.Module:
        """The network in evaluation mode, without numbers: parameters are on the meta device."""
        import diffusers

        kind = getattr(diffusers, self.config["_class_name"])
        with init_empty_weights(include_buffers=False):
            backbone: nn.Module = kind.from_config(dict(self.config))
        if kind is diffusers.UNet2DModel:
            set_heads(backbone)
        return backbone.eval().requires_grad_(False)

    def load(self) -> nn.Module:
        """The network with all but the float weights of quantized layers, which stay on the meta device."""
        backbone = self.network()
        with self._open() as file:
            names = {**{name: name for name in file.keys()}, **self.same}  # noqa: SIM118 - no mapping
            state = {name: file.get_tensor(first) for name, first in names.items() if name not in self.codes}
        backbone.load_state_dict(state, strict=False, assign=True)
        empty = {name for name, tensor in backbone.state_dict().items() if tensor.is_meta} - set(self.codes)
        if empty:
            raise ValueError(
                f"{self.path}: lacks {min(empty)}, which a {self.config['_class_name']} of this diffusers has. Save "
                "the Acceleration again with weights by this version, or install the one that it was saved by."
            )
        return backbone.requires_grad_(False)

    def check(self, params: QuantParams) -> None:
        """Raise ValueError for other parameters than those that the weights were saved with."""
        if self.params != without_codes(params).digest:
            raise ValueError(
                f"{self.path}: was saved with other parameters, which belong to another Acceleration. Give those that "
                "it was saved with, or save this one again with weights."
            )

    def joined(self, params: QuantParams, *, every: bool = True) -> QuantParams:
        """The parameters with the codes, each read from the file when it is asked for. every: or only learned ones."""
        keys = [key for name, row in self.codes.items() for key in _keys(name, row["split"])] if every else self.learned
        return replace(params, tensors=_Joined(params.tensors, frozenset(keys), self._read))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with safe_open(self.path, framework="pt") as file:
            if _about(file)["content"] != self.content:
                raise ValueError(f"{self.path}: was written over since it was loaded. Load the Acceleration again.")
            yield file

    def _read(self, key: str) -> Tensor:
        name, index = key.removesuffix("/codes")[:-1], int(key.removesuffix("/codes")[-1])
        row = self.codes[name]
        with self._open() as file:
            codes = unpack(file.get_tensor(self.same.get(name, name)), row["bits"], torch.Size(row["shape"]))
        return halves(codes, row["split"])[index]


class _Joined(Mapping[str, Tensor]):
    """tensors, and those of the `keys`, which are read whenever they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], keys: Collection[str], read: Callable[[str], Tensor]) -> None:
        self._tensors = {key: tensors[key] for key in tensors if key not in keys}
        self._keys, self._read = keys, read

    def __getitem__(self, key: str) -> Tensor:
        return self._read(key) if key in self._keys else self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from sorted(self._keys)

    def __len__(self) -> int:
        return len(self._tensors) + len(self._keys)


def _about(file: Any) -> dict[str, Any]:
    """What `save_weights` says in the file of the tensors."""
    about: dict[str, Any] = json.loads(file.metadata()["network"])
    return about


def _keys(name: str, split: int) -> list[str]:
    """Of the codes of a weight's halves, in parameters."""
    return [f"{name}{index}/codes" for index in range(2 if split else 1)]


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
        rows = (over_weight(grid["scale"], part), over_weight(grid["zero_point"], part))
        found.append(quantize(part, *rows, row["weight_bits"]))
    return torch.cat([part.to(torch.uint8) for part in found], dim=1)
