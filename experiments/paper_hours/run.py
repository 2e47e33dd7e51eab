"""What the paper's own rows would take: prints the table of experiments/published.md.

Usage: python experiments/paper_hours/run.py

MACs and parameters are counted on the true networks, without weights or memory for them (torch's device `meta`). Hours
are an estimate, for nothing of this has been run; disk and memory follow from the number of images.
"""

import math
import shlex
import sys
from dataclasses import dataclass
from functools import cache

import torch

from cq.core.denoiser import CutNetwork
from cq.evaluate.efficiency import call_macs, counting
from cq.models.architecture import architecture, build_module
from cq.models.dit import DiTCut
from cq.models.unet import UNetCut
from cq.run.building import build
from cq.run.compose import composed, composing

FLOPS = 15e12  # assumed: what an A100 sustains of its 19.5e12 in float32; TF32 convolutions may go faster
FAKE = 1.5  # assumed: how much longer a fake-quantized call takes than a plain one
GB = 1e9
HEAD = "| row | command | hardware | hours, estimated | disk | measured here / not measured here |"
ARCHITECTURES = {"sd_v1_4": "sd_v1"}  # where it is not named as its model
TEXT_TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Of one image without guidance: MACs of a full call, of a cached one and of decoding; and the parameters."""

    full: int
    cached: int
    decode: int
    parameters: int


ROWS = {  # label to command
    "DDPM, CIFAR-10, N = 10 (Table 1)": (
        "cq experiment=table1/ddpm_cachequant model=ddpm_cifar10 protocol=cifar10_50k evaluate=adm "
        "calibrate=trajectories512 quantize.num_samples=512"
    ),
    "LDM-4, LSUN-Bedroom, N = 2 (Table 1)": (
        "cq experiment=table1/ldm_cachequant model=ldm_bedroom256 protocol=lsun_bedroom_50k evaluate=adm "
        "budget.cache_interval=2 calibrate=trajectories128 quantize.num_samples=128"
    ),
    "LDM-8, LSUN-Church, N = 2 (Table 1)": (
        "cq experiment=table1/ldm_cachequant model=ldm_church256 protocol=lsun_church_50k evaluate=adm "
        "budget.cache_interval=2 calibrate=trajectories128 quantize.num_samples=128"
    ),
    "LDM-4, ImageNet, N = 5 (Table 2)": (
        "cq experiment=table2/cachequant_w8a8 model=ldm_imagenet256 protocol=imagenet256_50k calibrate=trajectories32 "
        "quantize.batch_size=16"
    ),
    "the same, 10,000 images (not in the paper)": (
        "cq experiment=table2/cachequant_w8a8 model=ldm_imagenet256 protocol=imagenet256_10k protocol.num_steps=250 "
        "calibrate=trajectories32 quantize.batch_size=16"
    ),
    # the release counts groups by steps (10), not by PLMS's 51 calls
    "Stable Diffusion v1.4, COCO, N = 5 (Table 4)": (
        "cq experiment=table4/cachequant model=sd_v1_4 protocol=coco5k_256 evaluate=adm_text schedule.num_groups=10 "
        "calibrate=trajectories32 quantize.batch_size=4"
    ),
    "Stable Diffusion v1.4, PartiPrompts, N = 5 (Table 7)": (
        "cq experiment=table7/cachequant model=sd_v1_4 protocol=parti evaluate=clip schedule.num_groups=10 "
        "calibrate=trajectories32 quantize.batch_size=4"
    ),
    # 14 blocks from the seventh on, as in Delta-DiT: half of the MACs, as the paper's BOPs at N = 2 say, too
    "DiT-XL/2, ImageNet, N = 2 (Table 3)": (
        "cq experiment=table3/quant_dps_dec model=dit_xl2_256 model.site=blocks.7-21 protocol=imagenet256_10k"
    ),
}


@cache
@torch.no_grad()
def count(name: str, latent_shape: tuple[int, ...], site: str) -> Counted:
    """Of the published model of that name, cut at `site`; several rows are of one model."""
    parts = architecture(ARCHITECTURES.get(name, name))
    with torch.device("meta"):
        if "transformer" in parts:
            backbone = build_module(parts["transformer"]).eval()
            network: CutNetwork = DiTCut(backbone)
            cond: torch.Tensor | None = torch.zeros(1, dtype=torch.int64)
        else:
            backbone = build_module(parts["unet"]).eval()
            width = parts["unet"].get("cross_attention_dim")
            tokens = TEXT_TOKENS if "text_encoder" in parts else 1
            network = UNetCut(backbone)
            cond = None if width is None else torch.zeros(1, tokens, width)
        full, cached = call_macs(network, latent_shape=latent_shape, cond=cond, sites=(site,))
        decode = {}
        if "vae" in parts:
            vae = build_module(parts["vae"]).eval()
            with counting(vae) as decode:
                vae.decode(torch.zeros(1, *latent_shape))
    return Counted(
        full=sum(full.values()), cached=sum(cached.values()), decode=sum(decode.values()),
        parameters=sum(p.numel() for p in backbone.parameters()),
    )  # fmt: skip


def row(label: str, command: str) -> str:
    """One line of the table."""
    with composing():
        config, choices = composed(shlex.split(command)[1:])
    latent_shape = tuple(config.model.get("latent_shape", config.model.image_shape))
    counted = count(choices["model"], latent_shape, config.model.site)
    images, image = config.sample.num_images, math.prod(config.model.image_shape)
    latent = math.prod(latent_shape)
    calls = build(config.sampler, "sampler").num_calls(config.budget.num_steps)
    refreshes = build(config.schedule, "schedule").bounds(calls).num_groups
    halves = 1 if config.model.get("guidance") is None else 2

    def hours(macs: float, factor: float) -> str:
        found = 2 * images * (halves * macs * factor + counted.decode) / FLOPS / 3600
        return f"{found:.0f}" if found >= 10 else f"{found:.1f}"

    reused = refreshes * counted.full + (calls - refreshes) * counted.cached
    trace = config.sample.trace * latent * 2 * 2 * calls
    converted = config.model.release.architecture is not None  # the checkpoint and the folder made of it
    disk = config.model.release.gigabytes * (1 + converted) + 4 * (images * (image + 4 * latent) + trace) / GB
    held = 3 * images * (image + 4 * latent) / GB + 8  # both sets of images, one of them while it is put together
    tested = "; tested: conversion" if converted else ""
    return (
        f"| {label} | `{command}` | A100, {2 ** math.ceil(math.log2(held))} GB of RAM | "
        f"{hours(calls * counted.full, 1)} + {hours(reused, FAKE)} | {disk:.0f} GB | "
        f"counted: {counted.full / 1e9:.1f} and {counted.cached / 1e9:.1f} G MACs a call, "
        f"{counted.parameters / 1e6:.0f} M parameters; run: all stages, random weights{tested} / images, quality, "
        "hours |"
    )


def main() -> None:
    sys.stdout.write(
        "\n".join([HEAD, "|---|---|---|---|---|---|", *(row(label, command) for label, command in ROWS.items())]) + "\n"
    )


if __name__ == "__main__":
    main()
