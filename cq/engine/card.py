"""Whether int8 products would pay on a GPU: measured on layers of the published networks, before anybody hopes so.

Legend: M rows (a guided batch of two), K inputs (of an im2col, for convolutions), N outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

LINEARS = (  # name, M, K, N
    ("SD v1 feed-forward, 64x64", 8192, 320, 2560),
    ("SD v1 attention, 32x32", 2048, 640, 640),
    ("DiT-XL/2 attention", 512, 1152, 1152),
    ("DiT-XL/2 feed-forward", 512, 1152, 4608),
)
CONVOLUTIONS = (  # name, side, channels in, channels out; 3 x 3
    ("LDM-4 ResNet, 64x64", 64, 192, 192),
    ("LDM-4 ResNet, 32x32", 32, 384, 384),
    ("SD v1 ResNet, 64x64", 64, 320, 320),
    ("SD v1 ResNet, 16x16", 16, 1280, 1280),
)
BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One layer, in milliseconds (medians). bf16: torch's own layer. product: torch._int_mm on integers that lie ready.

    whole: the same with what an engine has to do around it: input quantized and laid out, result scaled.
    """

    name: str
    bf16: float
    product: float
    whole: float


def timed(device: torch.device, *, smaller: int = 1) -> tuple[Timed, ...]:
    """Every layer, in about 0.1 s each. smaller: divides rows, or a side."""
    random = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, device=device).bfloat16()

    found = []
    for name, rows, inputs, outputs in LINEARS:
        x, weight = draw(rows // smaller, inputs), draw(outputs, inputs)
        layer = partial(nn.functional.linear, x, weight)
        found.append(_timed(name, layer, partial(_codes, x), _codes(weight)))
    for name, side, inputs, outputs in CONVOLUTIONS:
        x = draw(BATCH, inputs, side // smaller, side // smaller).contiguous(memory_format=torch.channels_last)
        weight = draw(outputs, inputs, 3, 3).contiguous(memory_format=torch.channels_last)
        flat = _codes(weight).permute(0, 2, 3, 1).reshape(outputs, -1)
        layer = partial(nn.functional.conv2d, x, weight, padding=1)
        found.append(_timed(name, layer, partial(_columns, x), flat))
    return tuple(found)


def columns(codes_NCHW: Tensor) -> Tensor:
    """The im2col of a 3 x 3 convolution with padding 1: [N H W, 9 C], the channels of a place side by side."""
    padded_NHWC = nn.functional.pad(codes_NCHW, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    batch, height, width, channels = padded_NHWC.shape
    windows = padded_NHWC.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(batch * (height - 2) * (width - 2), 9 * channels)


def verdict(device: torch.device) -> str:
    """One sentence on this card, measured now."""
    return sentence(timed(device), torch.cuda.get_device_name(device))


def sentence(rows: Sequence[Timed], where: str) -> str:
    """What the table comes to, over the sum of all layers."""
    bf16 = sum(row.bf16 for row in rows)
    product, whole = (sum(getattr(row, name) for row in rows) / bf16 for name in ("product", "whole"))
    return (
        f"on {where} int8 products take {product:.2f} of the time of bf16, and {whole:.2f} with their input quantized "
        f"and their result scaled ({len(rows)} layers of LDM-4, Stable Diffusion and DiT-XL/2, by torch._int_mm)"
    )


def _columns(x_NCHW: Tensor) -> Tensor:
    return columns(_codes(x_NCHW))


def _codes(x: Tensor) -> Tensor:
    """To int8 by one fixed scale, as an engine has it: nothing is searched."""
    return (x * 32.0).round().clamp(-128, 127).to(torch.int8)


def _timed(name: str, bf16: Callable[[], Tensor], made: Callable[[], Tensor], weight: Tensor) -> Timed:
    codes, turned = made(), weight.t()
    return Timed(
        name=name, bf16=_milliseconds(bf16), product=_milliseconds(lambda: torch._int_mm(codes, turned)),
        whole=_milliseconds(lambda: torch._int_mm(made(), turned).bfloat16() * 2.0**-10),
    )  # fmt: skip


def _milliseconds(run: Callable[[], Tensor]) -> float:
    if run().is_cuda:
        import triton.testing as triton  # type: ignore[import-untyped]

        median: Any = triton.do_bench(run, warmup=10, rep=40, return_mode="median")
        return float(median)
    from torch.utils.benchmark import Timer

    return float(Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=0.02).median * 1e3)
