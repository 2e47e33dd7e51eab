"""Every kind of integer layer against exact integer arithmetic: run as a program, under one instruction set.

Prints how many layers were compared and the largest error, relative to the largest output of its layer.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from cq.core.artifacts import QuantParams
from cq.core.call import CallIndex
from cq.engine.integer import IntegerLayer
from cq.engine.kernels import weight_bits
from cq.quantize.affine import quantize
from cq.quantize.layers import ActQuantizer, halves
from cq.quantize.twin import StoredLayer

BOUND = 1e-6
CALLS = 3
LAYERS: Mapping[str, Callable[[], nn.Conv2d | nn.Linear]] = {
    "1x1": lambda: nn.Conv2d(12, 20, 1),
    "1x1, stride 2": lambda: nn.Conv2d(12, 20, 1, stride=2, bias=False),
    "3x3": lambda: nn.Conv2d(12, 20, 3, padding=1),
    "3x3, unpadded": lambda: nn.Conv2d(12, 20, 3, bias=False),
    "3x3, stride 2": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
    "3x3, dilated": lambda: nn.Conv2d(12, 20, 3, padding=2, dilation=2),
    "3x1": lambda: nn.Conv2d(12, 20, (3, 1), padding=(1, 0)),
    "3x3, groups": lambda: nn.Conv2d(12, 20, 3, padding=1, groups=2),
    "3x3, depthwise": lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12),
    "linear": lambda: nn.Linear(48, 20),
    "linear, tokens": lambda: nn.Linear(48, 20, bias=False),
}
SPLITS = {"1x1": 4, "3x3": 8, "linear": 16}
POINTS = (0, 1, 117, 128, 254, 255)  # zero points of codes of 8 bits, here scaled to fewer


def exact(stored: StoredLayer, x: Tensor, call: int) -> Tensor:
    """What the parameters say, in float64: sums of products of integers are exact in it."""
    module, split = stored.module, stored.row["split"]
    parts = (x[:, :split], x[:, split:]) if split else (x,)
    outs = []
    for part, quantizer, (weight, scale, zero_point, codes) in zip(
        parts, stored.quantizers, stored.grids(), strict=True
    ):
        rows = (-1,) + (1,) * (weight.ndim - 1)
        bits = stored.row["weight_bits"]
        held = quantize(weight, scale.view(rows), zero_point.view(rows), bits) if codes is None else codes
        assert isinstance(quantizer, ActQuantizer)
        step, point = quantizer.grid(call)
        integers = quantize(part, torch.tensor(step), torch.tensor(point), quantizer.bits).double() - point
        centred = held.double() - zero_point.view(rows)
        if isinstance(module, nn.Linear):
            sums = integers @ centred.T
        else:
            sums = nn.functional.conv2d(
                integers, centred, None, module.stride, module.padding, module.dilation, module.groups
            )
        outs.append(sums * step * over(scale, sums))
    if stored.correction is not None:
        gain_C, offset_C = stored.correction[call].double()
        outs[0] = outs[0] * over(gain_C, outs[0]) + over(offset_C, outs[0])
    total = torch.stack(outs).sum(0)
    return total if module.bias is None else total + over(module.bias.detach(), total)


def over(row_C: Tensor, out: Tensor) -> Tensor:
    """A number a channel, to broadcast against an output."""
    return row_C.double().view((-1, 1, 1) if out.ndim == 4 else (-1,))


def layer(
    module: nn.Conv2d | nn.Linear, *, split: int, bits: int, shift: int, learned: bool, gains: bool
) -> StoredLayer:
    """One layer with parameters of every kind: zero points from 0 to the last code, a scale for every call."""
    last = 2**bits - 1
    weight, outputs = module.weight, len(module.weight)
    tensors: dict[str, Tensor] = {}
    call_index = CallIndex()
    keys = ("input0", "input1") if split else ("input0",)
    for index, (key, part) in enumerate(zip(keys, halves(weight, split), strict=True)):
        point = torch.tensor([POINTS[(shift + index + o) % len(POINTS)] * last // 255 for o in range(outputs)])
        held = torch.randint(0, last + 1, part.shape)
        tensors[f"l.weight{index}/scale"] = torch.rand(outputs) * 0.1 + 0.01
        tensors[f"l.weight{index}/zero_point"] = point.int()
        if learned:
            tensors[f"l.weight{index}/codes"] = held.to(torch.uint8)
        else:
            rows = (-1,) + (1,) * (part.ndim - 1)
            real = (held - point.view(rows)) * tensors[f"l.weight{index}/scale"].view(rows)
            part.data.copy_(real)
        tensors[f"l.{key}/scale"] = torch.rand(CALLS) * 0.1 + 0.01
        tensors[f"l.{key}/zero_point"] = torch.tensor(
            [POINTS[(shift + index + c) % len(POINTS)] for c in range(CALLS)], dtype=torch.int32
        )
    correction = torch.stack([torch.randn(CALLS, outputs), torch.randn(CALLS, outputs)], dim=1) if gains else None
    row = {"name": "l", "split": split, "weight_bits": bits, "act_bits": 8}
    return StoredLayer(
        module=module, row=row, params=QuantParams(tensors=tensors, bits={}, coverage=()), correction=correction,
        quantizers=[ActQuantizer.stored(8, tensors, f"l.{key}", call_index=call_index) for key in keys],
        call_index=call_index,
    )  # fmt: skip


def inputs(module: nn.Conv2d | nn.Linear, name: str, batch: int, *, strided: bool) -> Tensor:
    """Values on both sides of every grid; not contiguous in any layout where asked."""
    if isinstance(module, nn.Linear):
        shape: tuple[int, ...] = (batch, 5, 48) if "tokens" in name else (batch, 48)
    else:
        shape = (batch, 12, 7, 9)
    if strided:
        return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2] * 4
    return torch.randn(shape) * 4


def errors(bits: int) -> Iterator[float]:
    """Of every layer at every call, relative to the largest output."""
    for shift, (name, make) in itertools.product(range(len(POINTS)), LAYERS.items()):
        for split in {0, SPLITS.get(name, 0)}:
            module = make()
            module.requires_grad_(False)
            width = 4 if shift % 3 == 2 else bits
            stored = layer(module, split=split, bits=width, shift=shift, learned=shift % 2 == 1, gains=shift % 2 == 0)
            made = IntegerLayer(stored, exact_bits=bits)
            for call, batch in enumerate((1, 3, 32)):
                x = inputs(module, name, batch, strided=call == 1)
                with stored.call_index.at(call):
                    out = made(x)
                want = exact(stored, x, call)
                assert (out.shape, out.dtype) == (want.shape, torch.float32), name
                error = float((out.double() - want).abs().max() / want.abs().max())
                assert error < BOUND, f"{name}, split {split}, {width} bits, zero points from {shift}: {error:.1e}"
                yield error


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    bits = weight_bits()
    found = list(errors(bits))
    print(torch.backends.cpu.get_cpu_capability(), bits, len(found), f"{max(found):.1e}")
