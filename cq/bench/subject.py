"""The model of a scenario, ready to be called: at its true architecture with random weights, or with its own.

How long a product takes does not depend on the numbers in it, so random weights time as trained ones do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from cq.bench.scenario import Scenario
from cq.core.contracts import NoiseScheduler, Sampler
from cq.core.denoiser import Denoiser, DenoiserOutput, GuidedDenoiser
from cq.core.seeding import initial_noise
from cq.models.architecture import Architecture, architecture, build_module
from cq.models.cutting import denoiser_of
from cq.models.diffusion import ModelComponent
from cq.run.building import build

NETWORKS = ("unet", "transformer")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """x_NCHW: noise of as many images as the scenario has. cond: of both halves where guided."""

    component: ModelComponent
    denoiser: GuidedDenoiser
    sampler: Sampler
    scheduler: Callable[[int], NoiseScheduler]
    x_NCHW: Tensor
    cond: Tensor | None

    @cached_property
    def channels(self) -> dict[str, int]:
        """Of what is cached, by site: from one full call."""
        with torch.no_grad():
            return {site: found.shape[1] for site, found in self.call(self.denoiser).features.items()}

    def call(self, denoiser: Denoiser, *, reuse: Mapping[str, Tensor] | None = None) -> DenoiserOutput:
        """One call on the noise: full, or with `reuse` cached."""
        index, timestep = int(bool(reuse)), torch.tensor(500)
        return denoiser(self.x_NCHW, call=index, timestep=timestep, cond=self.cond, reuse=reuse or {})


def subject_of(scenario: Scenario, config: DictConfig, *, empty: bool = False) -> Subject:
    """The model that `config` describes. empty: a network without numbers, which can be counted and not timed."""
    component: ModelComponent = build(config.model, "model")
    sampler: Sampler = build(config.sampler, "sampler")
    x_NCHW = initial_noise(tuple(range(scenario.images)), component.latent_shape)
    if scenario.architecture is None:
        model = component.load()
        return Subject(
            component=component, denoiser=model.denoiser, sampler=sampler, x_NCHW=x_NCHW,
            scheduler=lambda steps: sampler.noise_scheduler(component.noise, steps),
            cond=model.condition(torch.zeros(scenario.images, dtype=torch.int64)),
        )  # fmt: skip
    parts = architecture(scenario.architecture)
    kind = next(name for name in NETWORKS if name in parts)
    with torch.device("meta"):
        network = build_module(parts[kind])
    if not empty:
        fill(network.to_empty(device="cpu"))
    null_first = bool(getattr(component, "null_first", True))
    denoiser = denoiser_of(network, site=component.site, guidance=component.guidance, null_first=null_first)
    return Subject(
        component=component, denoiser=denoiser, sampler=sampler, x_NCHW=x_NCHW,
        scheduler=lambda steps: sampler.noise_scheduler(parts["scheduler"], steps),
        cond=_condition(parts, parts[kind], scenario.images, guided=denoiser.guidance is not None),
    )  # fmt: skip


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Uniform weights in the bounds of PyTorch's own initialisation, of one block over and over; norms at one."""
    block = torch.rand(2**20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim < 2:
            tensor.fill_(1.0)
            continue
        bound = tensor[0].numel() ** -0.5
        for start in range(0, tensor.numel(), len(block)):
            part = tensor.view(-1)[start : start + len(block)]
            torch.mul(block[: len(part)], bound, out=part)


def _condition(parts: Architecture, network: Any, images: int, *, guided: bool) -> Tensor | None:
    count = 2 * images if guided else images
    if network["_class_name"] == "DiTTransformer2DModel":
        return torch.arange(count) % int(network["num_embeds_ada_norm"])
    if "cross_attention_dim" not in network:
        return None
    tokens = parts["text_encoder"]["max_position_embeddings"] if "text_encoder" in parts else 1
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, tokens, int(network["cross_attention_dim"]), generator=generator)
