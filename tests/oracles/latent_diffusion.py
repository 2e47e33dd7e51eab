"""Latent diffusion's networks from their definition (arXiv:2112.10752, appendix; ADM's U-Net, arXiv:2105.05233).

Written for the tests, without diffusers and in plain tensor arithmetic. Modules carry the names that the released
checkpoints use, so `released` makes a state dict as such a checkpoint holds it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def attend(q_NHLD: Tensor, k_NHLD: Tensor, v_NHLD: Tensor) -> Tensor:
    logits = torch.einsum("nhld,nhmd->nhlm", q_NHLD, k_NHLD) / math.sqrt(q_NHLD.shape[-1])
    return torch.einsum("nhlm,nhmd->nhld", logits.softmax(-1), v_NHLD)


class Residual(nn.Module):
    """Two convolutions under a time embedding that shifts, or scales and shifts; may halve or double the size."""

    def __init__(self, fan_in: int, fan_out: int, time: int, *, scale_shift: bool, resample: str = "") -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(nn.GroupNorm(32, fan_in), nn.SiLU(), nn.Conv2d(fan_in, fan_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, (1 + scale_shift) * fan_out))
        norm, conv = nn.GroupNorm(32, fan_out), nn.Conv2d(fan_out, fan_out, 3, padding=1)
        self.out_layers = nn.Sequential(norm, nn.SiLU(), nn.Dropout(0.0), conv)
        self.skip_connection = nn.Identity() if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.resample == "up":
            h, x = (y.repeat_interleave(2, 2).repeat_interleave(2, 3) for y in (h, x))
        h = self.in_layers[2](h)
        bias = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = bias.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + bias)
        out: Tensor = self.skip_connection(x) + self.out_layers[3](F.silu(h))
        return out


class SelfAttention(nn.Module):
    """Attention among positions; query, key and value of a head lie beside each other in one projection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        n, c, h, w = x.shape
        every = self.qkv(self.norm(x).reshape(n, c, h * w)).reshape(n, self.heads, 3, c // self.heads, h * w)
        q, k, v = every.transpose(-1, -2).unbind(2)
        mixed = attend(q, k, v).transpose(-1, -2).reshape(n, c, h * w)
        out: Tensor = x + self.proj_out(mixed).reshape(n, c, h, w)
        return out


class CrossAttention(nn.Module):
    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x_NLC: Tensor, context_NMC: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:-1], self.heads, -1).transpose(1, 2)

        mixed = attend(split(self.to_q(x_NLC)), split(self.to_k(context_NMC)), split(self.to_v(context_NMC)))
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class Gated(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class Block(nn.Module):
    """Self-attention, attention to the context, and a gated MLP, each on normed input and added."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.ff = nn.ModuleDict(
            {"net": nn.Sequential(Gated(channels), nn.Dropout(0.0), nn.Linear(4 * channels, channels))}
        )
        self.attn2 = CrossAttention(channels, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x), self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff["net"](self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([Block(channels, context, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = self.transformer_blocks[0](tokens, context)
        out: Tensor = x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))
        return out


class Plain(nn.Module):
    """A convolution that ignores time and context. name: under which its weights are stored."""

    def __init__(self, name: str, conv: nn.Conv2d, *, enlarge: bool = False) -> None:
        super().__init__()
        self.add_module(name, conv)
        self.name, self.enlarge = name, enlarge

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        if self.enlarge:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        out: Tensor = self.get_submodule(self.name)(x)
        return out


class First(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


@dataclass(frozen=True, kw_only=True)
class UNetShape:
    """attended: downsampling factors with attention. heads, or head_width where their number follows the channels."""

    channels: int
    mult: tuple[int, ...]
    attended: tuple[int, ...]
    latents: int
    heads: int = 0
    head_width: int = 0
    context: int = 0
    residual: bool = False  # scale-shift norm, and residual blocks that resample


class UNet(nn.Module):
    """Predicts the noise in latents [N, C, H, W] at timesteps [N], under a context [N, M, D] or none."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        width, time = shape.channels, 4 * shape.channels
        self.time_embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))

        def attention(channels: int) -> nn.Module:
            heads = shape.heads or channels // shape.head_width
            if shape.context:
                return SpatialTransformer(channels, shape.context, heads)
            return SelfAttention(channels, heads)

        def residual(fan_in: int, fan_out: int, resample: str = "") -> nn.Module:
            return Residual(fan_in, fan_out, time, scale_shift=shape.residual, resample=resample)

        now, factor = width, 1
        skips = [width]
        inputs = [nn.ModuleList([First(shape.latents, width, 3, padding=1)])]
        for level, mult in enumerate(shape.mult):
            for _ in range(2):
                layers = [residual(now, mult * width)]
                now = mult * width
                layers += [attention(now)] if factor in shape.attended else []
                inputs.append(nn.ModuleList(layers))
                skips.append(now)
            if level < len(shape.mult) - 1:
                conv = Plain("op", nn.Conv2d(now, now, 3, stride=2, padding=1))
                inputs.append(nn.ModuleList([residual(now, now, "down") if shape.residual else conv]))
                skips.append(now)
                factor *= 2
        self.input_blocks = nn.ModuleList(inputs)
        self.middle_block = nn.ModuleList([residual(now, now), attention(now), residual(now, now)])
        outputs = []
        for level, mult in reversed(list(enumerate(shape.mult))):
            for index in range(3):
                layers = [residual(now + skips.pop(), mult * width)]
                now = mult * width
                layers += [attention(now)] if factor in shape.attended else []
                if level and index == 2:
                    conv = Plain("conv", nn.Conv2d(now, now, 3, padding=1), enlarge=True)
                    layers.append(residual(now, now, "up") if shape.residual else conv)
                    factor //= 2
                outputs.append(nn.ModuleList(layers))
        self.output_blocks = nn.ModuleList(outputs)
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, shape.latents, 3, padding=1))

    def forward(self, x: Tensor, timesteps_N: Tensor, context: Tensor | None = None) -> Tensor:
        half = self.shape.channels // 2
        angles = timesteps_N[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        skips = []
        for block in self.input_blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x, emb, context)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, emb, context)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for layer in block:  # type: ignore[attr-defined]
                x = layer(x, emb, context)
        out: Tensor = self.out(x)
        return out


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ConvPair(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(fan_in), nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.norm2, self.conv2 = norm(fan_out), nn.Conv2d(fan_out, fan_out, 3, padding=1)
        if fan_in != fan_out:
            self.nin_shortcut = nn.Conv2d(fan_in, fan_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)
        return out


class OneHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        mixed = attend(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.proj_out(mixed)
        return out


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            ConvPair(channels, channels),
            OneHead(channels),
            ConvPair(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Resample(nn.Module):
    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if self.up else F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Level(nn.Module):
    def __init__(self, pairs: list[ConvPair], name: str, resample: Resample | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(pairs)
        self.name = name if resample else ""
        if resample:
            self.add_module(name, resample)

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.block:
            x = pair(x)
        out: Tensor = self.get_submodule(self.name)(x) if self.name else x
        return out


@dataclass(frozen=True, kw_only=True)
class FirstStageShape:
    """codes: entries of the codebook; 0 for the first stage with a Gaussian posterior."""

    channels: int
    mult: tuple[int, ...]
    latents: int
    codes: int


class Encoder(nn.Module):
    def __init__(self, shape: FirstStageShape) -> None:
        super().__init__()
        now, levels = shape.channels, []
        self.conv_in = nn.Conv2d(3, now, 3, padding=1)
        for level, mult in enumerate(shape.mult):
            width = mult * shape.channels
            pairs = [ConvPair(now, width), ConvPair(width, width)]
            now = width
            levels.append(Level(pairs, "downsample", Resample(now, up=False) if level < len(shape.mult) - 1 else None))
        self.down = nn.ModuleList(levels)
        self.mid, self.norm_out = Middle(now), norm(now)
        self.conv_out = nn.Conv2d(now, shape.latents * (1 if shape.codes else 2), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    def __init__(self, shape: FirstStageShape) -> None:
        super().__init__()
        now = shape.mult[-1] * shape.channels
        self.conv_in, self.mid = nn.Conv2d(shape.latents, now, 3, padding=1), Middle(now)
        levels: list[Level] = []
        for level, mult in reversed(list(enumerate(shape.mult))):
            width = mult * shape.channels
            pairs = [ConvPair(now, width), ConvPair(width, width), ConvPair(width, width)]
            now = width
            levels.insert(0, Level(pairs, "upsample", Resample(now, up=True) if level else None))
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = norm(now), nn.Conv2d(now, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Codebook(nn.Module):
    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """Each position's nearest entry."""
        z = z_NCHW.movedim(1, -1)
        distances = (z[..., None, :] - self.embedding.weight).square().sum(-1)
        nearest: Tensor = self.embedding(distances.argmin(-1)).movedim(-1, 1)
        return nearest


class FirstStage(nn.Module):
    def __init__(self, shape: FirstStageShape) -> None:
        super().__init__()
        both = shape.latents * (1 if shape.codes else 2)
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(both, both, 1), nn.Conv2d(shape.latents, shape.latents, 1)
        if shape.codes:
            self.quantize = Codebook(shape.codes, shape.latents)

    def encode(self, x: Tensor) -> Tensor:
        """Latents before they are quantized, or mean and log-variance."""
        out: Tensor = self.quant_conv(self.encoder(x))
        return out

    def decode(self, z: Tensor) -> Tensor:
        if hasattr(self, "quantize"):
            z = self.quantize(z)
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out


class Classes(nn.Module):
    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, dim)


def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter random, those of norms too, so that none can stand in for another."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
        noise = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
        one = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = noise + one
    return module.eval().requires_grad_(False)


def released(
    unet: UNet, averaged: UNet | None, first_stage: FirstStage, classes: Classes | None, *,
    betas: tuple[float, float], scale_factor: float | None,
) -> dict[str, Any]:  # fmt: skip
    """A checkpoint as it was released: every part's weights and the noise schedule under `state_dict`."""
    state: dict[str, Tensor] = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    state |= {f"first_stage_model.{k}": v for k, v in first_stage.state_dict().items()}
    if averaged is not None:
        state |= {f"model_ema.diffusion_model{k.replace('.', '')}": v for k, v in averaged.state_dict().items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    if classes is not None:
        state |= {f"cond_stage_model.{k}": v for k, v in classes.state_dict().items()}
    beta = torch.linspace(betas[0] ** 0.5, betas[1] ** 0.5, 1000, dtype=torch.float64) ** 2
    product = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = beta * (1 - before) / (1 - product)
    state |= {
        name: value.float()
        for name, value in {
            "betas": beta, "alphas_cumprod": product, "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": product.sqrt(), "sqrt_one_minus_alphas_cumprod": (1 - product).sqrt(),
            "log_one_minus_alphas_cumprod": (1 - product).log(), "sqrt_recip_alphas_cumprod": product.rsqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / product - 1).sqrt(), "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": beta * before.sqrt() / (1 - product),
            "posterior_mean_coef2": (1 - before) * (1 - beta).sqrt() / (1 - product),
        }.items()
    }  # fmt: skip
    if scale_factor is not None:
        state["scale_factor"] = torch.tensor(scale_factor)
    return {"state_dict": state, "epoch": 1, "global_step": 2}
